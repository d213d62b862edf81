"""Reading what a file holds beside its pixels never fails, whatever the file is."""

from __future__ import annotations

import io

import numpy as np
import pytest

from dni_deploy.imaging.embedded import read_embedded
from dni_deploy.imaging.image_source import ImageSource
from dni_deploy.imaging.png_chunks import PngChunk, encode_profile, insert_chunks
from dni_deploy.imaging.tiff_tags import RATIONAL, SHORT
from tests.support.color_files import (
    ADOBE_ICC,
    ADOBE_RGB,
    encode,
    make_bmp,
    make_exif,
    make_gif_with_profile,
    make_pixels,
    make_tiff,
    skip_unread,
)

FILES = {
    "PNG": lambda: insert_chunks(
        encode(make_pixels(4, 4), "PNG"),
        [PngChunk(b"cICP", bytes([9, 8, 0, 1])), encode_profile(ADOBE_ICC), PngChunk(b"eXIf", make_exif(orientation=6))],
    ),
    "TIFF": lambda: make_tiff(
        make_pixels(4, 4), t301=(SHORT, range(256)), t318=(RATIONAL, (3127, 10000, 329, 1000)), t700=(1, b"<RDF/>")
    ),
    "BMP": lambda: make_bmp(make_pixels(4, 4), bytes(4), ADOBE_RGB),
    "GIF": lambda: make_gif_with_profile(make_pixels(4, 4), ADOBE_ICC),
    "AVIF": lambda: encode(make_pixels(4, 4), "AVIF"),
    "JPEG": lambda: encode(make_pixels(4, 4), "JPEG"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("flips", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_bytes_anywhere_in_a_file(name: str, flips: int) -> None:
    if name == "AVIF":
        skip_unread(".avif")
    data, random = FILES[name](), np.random.default_rng(0)
    info = {"exif": make_exif(orientation=6), "icc_profile": ADOBE_ICC, "xmp": b"<RDF/>", "comment": b"text"}
    for count in range(flips):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), count % 5):
            damaged[position] = random.integers(256)
        if count % 7 == 0:
            del damaged[random.integers(len(data)) :]
        file = io.BytesIO(bytes(damaged))
        embedded = read_embedded(ImageSource(file, name, ("RGB", "GRAY", "CMYK")[count % 3], info))
        assert 1 <= embedded.orientation <= 8
        assert file.tell() == 0


@pytest.mark.parametrize(
    "info", [{"exif": 1, "icc_profile": 2, "xmp": 3, "comment": 4, "photoshop": 5}, {"dpi": (0, -1), "exif": b""}]
)
def test_odd_findings_of_a_decoder(info: dict[str, object]) -> None:
    embedded = read_embedded(ImageSource(io.BytesIO(encode(make_pixels(), "JPEG")), "JPEG", "RGB", info))
    assert embedded.color.is_srgb
    assert embedded.metadata.dpi is None

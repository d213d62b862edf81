"""Files of other kinds are named, with something to do that works."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.errors import ImageFileError
from dni_deploy.imaging.file_kinds import BRANDS, MAGIC_BYTES, identify_file
from dni_deploy.imaging.image_file import read_image

SAMPLES = {
    "a HEIC or HEIF image": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a JPEG XL image": b"\xff\x0a\x7f\x01",
    "a JPEG 2000 image": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
    "a Photoshop document": b"8BPS\0\x01" + bytes(20),
    "a camera's raw file": b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom",
    "an OpenEXR image": b"\x76\x2f\x31\x01\x02\0\0\0",
    "a Radiance HDR image": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n",
    "a DDS texture": b"DDS |\0\0\0",
    "an icon of several sizes": b"\0\0\x01\0\x01\0\x10\x10",
    "a QOI image": b"qoif\0\0\0\x01",
    "a TGA image": b"\0\0\x02" + bytes(40) + b"TRUEVISION-XFILE.\0",
    "a PDF document": b"%PDF-1.7\n",
    "a PostScript document": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "an SVG drawing": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a web page": b"<!DOCTYPE html><title>404</title>",
    "a video or audio file": b"\x1a\x45\xdf\xa3\x01\0\0\0",
    "a pointer of Git LFS and not the file itself": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "a zip archive": b"PK\x03\x04\x14\0",
}


@pytest.mark.parametrize(("name", "content"), SAMPLES.items())
def test_a_kind_that_is_not_read_is_named_with_what_to_do(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageFileError) as caught:
        read_image(path)
    message = str(caught.value)
    assert f"{path} is {name}, which is not read here; " in message
    assert len(message) < 300
    assert "\n" not in message


@pytest.mark.parametrize("brand", [b"isom", b"mp42", b"qt  ", b"M4V "])
def test_other_brands_are_videos(brand: bytes) -> None:
    kind = identify_file(b"\0\0\0\x14ftyp" + brand + bytes(8))
    assert kind is not None
    assert "dni-deploy video" in kind.advice


def test_avif_is_told_from_heic_by_any_of_its_brands() -> None:
    kind = identify_file(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf")
    assert kind is not None
    assert kind.name == "AVIF"


def test_every_kind_is_read_or_has_advice() -> None:
    for kind in (*(kind for _, _, kind in MAGIC_BYTES), *BRANDS.values()):
        assert bool(kind.pillow_name) != bool(kind.advice)


def test_a_tga_file_of_the_first_version_has_only_its_header() -> None:
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 40, 32, 24, 0)
    kind = identify_file(header + bytes(40 * 32 * 3))
    assert kind is not None
    assert kind.name == "a TGA image"
    assert identify_file(bytes(100)) is None
    assert identify_file(header[:17]) is None


def test_text_is_no_netpbm() -> None:
    assert identify_file(b"P3 is the third one") is not None  # Pillow refuses it
    assert identify_file(b"P3rhaps") is None
    assert identify_file(b"") is None


def make_dng(order: str, *, has_version: bool) -> bytes:
    """Makes the TIFF that a camera's raw file is: its first image is a thumbnail."""
    pixels = bytes(range(48))
    tags = [
        (254, 4, 1, 1), (256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 300),
        (277, 3, 1, 1), (278, 3, 1, 4), (279, 4, 1, 16), (330, 4, 1, 300), *([(50706, 1, 4, 0x01040000)] if has_version else []),
    ]  # fmt: skip
    entries = b""
    for tag, kind, count, value in tags:
        shown = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + shown
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return (head + entries + bytes(4)).ljust(300, b"\0") + pixels


@pytest.mark.parametrize("has_version", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_thumbnail_of_a_raw_file_is_not_taken_for_it(tmp_path: Path, order: str, has_version: bool) -> None:
    (tmp_path / "a.dng").write_bytes(make_dng(order, has_version=has_version))
    with pytest.raises(ImageFileError, match=r"a camera's raw file.*darktable-cli in\.dng out\.tif"):
        read_image(tmp_path / "a.dng")


PHOTO = np.kron(np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        ("magick {source} {made}", "dds"),
        ("magick {source} {made}", "tga"),
        ("magick {source} {made}", "ico"),
        ("magick {source} {made}", "pcx"),
        ("magick {source} {made}", "psd"),
        ("magick {source} {made}", "fits"),
        ("magick {source} pam:{made}", "pam"),
        ("rsvg-convert -f pdf source.svg -o {made}", "pdf"),
        ("rsvg-convert -f eps source.svg -o {made}", "eps"),
        ("magick {source} {made}", "jp2"),
        ("heif-enc {source} -o {made}", "heic"),
        ("cjxl {source} {made}", "jxl"),
        ("ffmpeg -v error -i {source} {made}", "qoi"),
        ("oiiotool {source} -o {made}", "exr"),
        ("oiiotool {source} -o {made}", "hdr"),
        ("svg", "svg"),
    ],
)
def test_what_the_message_advises_works(tmp_path: Path, make: str, suffix: str) -> None:
    """By the tools themselves, where they are installed."""

    def run(command: str) -> None:
        command = command.replace("magick", "convert") if not shutil.which("magick") else command
        words = [word.strip("'") for word in command.split()]
        if not shutil.which(words[0]):
            pytest.skip(f"{words[0]} is not installed")
        result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        if command in made_by:
            if result.returncode:
                pytest.skip(f"{words[0]} cannot write it here: {result.stderr[:80]}")
            return
        assert result.returncode == 0, result.stderr

    source, made = tmp_path / "source.png", tmp_path / f"in.{suffix}"
    Image.fromarray(PHOTO).save(source)
    made_by: set[str] = set()
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="32"><rect width="9" height="9"/></svg>'
    (tmp_path / "source.svg").write_text(drawing)
    if make == "svg":
        made.write_text(drawing)
    else:
        command = make.format(source=source.name, made=made.name)
        made_by = {command, command.replace("magick", "convert")}
        run(command)
    with pytest.raises(ImageFileError) as caught:
        read_image(made)
    advice = str(caught.value).rpartition("for example: ")[2].partition(" (convert")[0].rstrip(".")
    run(advice.replace("in.j2k", made.name).replace("in.dng", made.name))
    outputs = [path for path in tmp_path.iterdir() if path.name.startswith("out")]
    assert outputs
    assert read_image(outputs[0]).rgb.size


@pytest.mark.parametrize("suffix", ["gif", "avif", "ppm", "pgm", "jfif", "jpe", "tif"])
def test_formats_that_are_read_beside_the_written_ones(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    gray = suffix == "pgm"
    image = Image.fromarray(PHOTO[..., 0] if gray else PHOTO)
    buffer = io.BytesIO()
    options = {"avif": {"quality": 100, "subsampling": "4:4:4"}, "jfif": {"subsampling": 0}, "jpe": {"subsampling": 0}}.get(
        suffix, {}
    )
    image.save(
        buffer, {"ppm": "PPM", "pgm": "PPM", "jfif": "JPEG", "jpe": "JPEG", "tif": "TIFF"}.get(suffix, suffix), **options
    )
    path.write_bytes(buffer.getvalue())
    read = read_image(path)
    expected = PHOTO[..., :1] if gray else PHOTO
    assert read.is_gray == gray
    assert np.abs(read.rgb.astype(int) - expected).max() <= (60 if suffix.startswith("j") else 4 if suffix == "avif" else 0)


def test_an_animated_gif_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(PHOTO // (1 + number)) for number in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFileError, match="animation of 3 frames"):
        read_image(tmp_path / "a.gif")


def test_the_first_image_of_a_phone_is_read_and_the_others_are_mentioned(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.fromarray(PHOTO // 2)])
    image = read_image(tmp_path / "a.jpg")
    assert image.rgb.shape == PHOTO.shape
    assert "left out: 1 further image inside the JPEG" in image.notes

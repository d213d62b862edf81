"""run, in every pair of formats, judged by programs that are not ours: ImageMagick for colors, ExifTool for metadata."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from dni_deploy.api.run import run
from tests.support.color_files import COLOR_SOURCES, encode, make_exif, make_pixels, read_by_pillow, render, skip_unread
from tests.support.frame_session import Dimmer, run_over

MAGICK = next((path for name in ("magick", "/usr/bin/convert", "convert") if (path := shutil.which(name))), "")
OUTPUTS = (".png", ".jpg", ".webp", ".tif", ".bmp")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    run_over(monkeypatch, Dimmer((1.0, 0.0)))


def render_by_magick(path: Path, folder: Path) -> np.ndarray:
    """Renders a file as sRGB by ImageMagick, which follows embedded profiles."""
    srgb = folder / "srgb.icc"
    srgb.write_bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    command = [MAGICK, str(path), "-intent", "Relative", "-profile", str(srgb), "-depth", "8", f"ppm:{folder / 'shown.ppm'}"]
    subprocess.run(command, check=True, timeout=60)
    with Image.open(folder / "shown.ppm") as image:
        return np.array(image.convert("RGB"))


def read_by_exiftool(path: Path) -> dict[str, Any]:
    output = subprocess.run(["exiftool", "-json", "-n", "-a", "-G1", str(path)], capture_output=True, check=True, timeout=60)
    tags: dict[str, Any] = json.loads(output.stdout)[0]
    return tags


@pytest.mark.skipif(not MAGICK, reason="ImageMagick is not installed")
@pytest.mark.parametrize("suffix", OUTPUTS)
@pytest.mark.parametrize("name", COLOR_SOURCES)
def test_imagemagick_shows_every_output_as_the_input_means(tmp_path: Path, name: str, suffix: str) -> None:
    source_suffix, make, space = COLOR_SOURCES[name]
    skip_unread(source_suffix)
    # Smooth colors: JPEG is lossy, and noise would hide what is asked.
    ramp = np.linspace(0, 255, 24).round().astype(np.uint8)
    pixels = np.stack([*np.meshgrid(ramp, ramp), np.full((24, 24), 128, np.uint8)], axis=2)
    source = tmp_path / f"in{source_suffix}"
    source.write_bytes(make(pixels))
    report = run("x.dni", source, tmp_path / f"out{suffix}", 1)
    truth = render(read_by_pillow(source)[0], space)
    difference = np.abs(render_by_magick(tmp_path / f"out{suffix}", tmp_path).astype(int) - truth)
    # ImageMagick converts in 16 bits and rounds once more; JPEG at quality 95 is off by a few levels of its own, which a curve
    # may stretch in the dark.
    assert np.percentile(difference, 99) <= (16 if suffix == ".jpg" else 1)
    assert difference.max() <= (60 if suffix == ".jpg" else 2)
    converted = [note for note in report.images[0].notes if "converted to sRGB" in note]
    assert len(converted) == (suffix == ".bmp" and space is not None)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="ExifTool is not installed")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exiftool_finds_what_the_picture_knew(tmp_path: Path, name: str, suffix: str) -> None:
    source = tmp_path / f"in.{name.lower()}"
    exif = make_exif(orientation=6)
    source.write_bytes(encode(make_pixels(8, 16), name, exif=exif) if name != "TIFF" else make_turned_tiff(tmp_path, exif))
    run("x.dni", source, tmp_path / f"out{suffix}", 1)
    tags = read_by_exiftool(tmp_path / f"out{suffix}")
    assert (tags["File:ImageWidth"] if "File:ImageWidth" in tags else tags[find_width(tags)]) == 8
    assert tags["IFD0:Artist"] == "Ada Lovelace"
    assert tags["IFD0:XResolution"] == 300
    assert tags.get("IFD0:Orientation", 1) == 1
    assert tags["ExifIFD:DateTimeOriginal"] == "2026:01:02 03:04:05"
    assert (tags["ExifIFD:ExifImageWidth"], tags["ExifIFD:ExifImageHeight"]) == (8, 16)
    assert tags["Composite:GPSLatitude"] == pytest.approx(48.5)
    assert not [tag for tag in tags if tag.endswith(("Warning", "Error"))]


def find_width(tags: dict[str, Any]) -> str:
    return next(tag for tag in tags if tag.endswith(":ImageWidth"))


def make_turned_tiff(folder: Path, exif: bytes) -> bytes:
    """Makes a TIFF file of ExifTool's writing."""
    (folder / "plain.tif").write_bytes(encode(make_pixels(8, 16), "TIFF"))
    (folder / "tags.jpg").write_bytes(encode(make_pixels(8, 16), "JPEG", exif=exif))
    command = ["exiftool", "-q", "-overwrite_original", "-tagsFromFile", folder / "tags.jpg", "-all:all", folder / "plain.tif"]
    subprocess.run([str(part) for part in command], check=True, timeout=60)
    return (folder / "plain.tif").read_bytes()

"""Pixels that are not in a file are never made up: an image whose data do not cover its size is refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dni_deploy.errors import ImageFileError
from dni_deploy.imaging.image_file import read_image
from dni_deploy.imaging.metadata_removal import remove_metadata

SIDE = 72
PHOTO = np.kron(np.random.default_rng(0).integers(1, 256, (12, 12, 3), dtype=np.uint8), np.ones((6, 6, 1), np.uint8))


def encode(file_format: str, pixels: Any = PHOTO, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert("P") if file_format == "GIF" else image).save(buffer, file_format, **options)
    return buffer.getvalue()


def patch(data: bytes, offset: int, replacement: bytes) -> bytes:
    return data[:offset] + replacement + data[offset + len(replacement) :]


def double_png(data: bytes) -> bytes:
    data = patch(data, 20, struct.pack(">I", 2 * SIDE))
    return patch(data, 29, struct.pack(">I", zlib.crc32(data[12:29])))


def double_jpeg(data: bytes) -> bytes:
    start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return patch(data, start + 5, struct.pack(">H", 2 * SIDE))


def double_gif(data: bytes) -> bytes:
    start = data.find(b",\0\0\0\0" + struct.pack("<HH", SIDE, SIDE))
    return patch(patch(data, 8, struct.pack("<H", 2 * SIDE)), start + 7, struct.pack("<H", 2 * SIDE))


def double_tiff(data: bytes) -> bytes:
    start = max(data.find(b"\x01\x01" + kind + b"\0\x01\0\0\0") for kind in (b"\x03", b"\x04"))
    return patch(data, start + 8, struct.pack("<H", 2 * SIDE))


def make_short_png(color: int, interlace: int) -> bytes:
    """Makes a PNG whose data end after some rows; its last row is 0 in a decoder that goes on."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[color]

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, color, 0, 0, interlace))
    palette = chunk(b"PLTE", bytes(range(99))) if color == 3 else b""
    rows = (b"\0" + bytes([7]) * 9 * channels) * 6
    return b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(**options: Any) -> bytes:
    return double_tiff(encode("TIFF", **options))


INCOMPLETE: dict[str, Callable[[], bytes]] = {
    "png": lambda: double_png(encode("PNG")),
    **{
        f"png {color} {interlace}": lambda c=color, i=interlace: make_short_png(c, i)
        for color in (0, 2, 3, 6)
        for interlace in (0, 1)
    },  # type: ignore[misc]
    "jpeg": lambda: double_jpeg(encode("JPEG")),
    "jpeg progressive": lambda: double_jpeg(encode("JPEG", progressive=True)),
    "jpeg cut and closed": lambda: encode("JPEG")[:-900] + b"\xff\xd9",
    "jpeg gray cut and closed": lambda: encode("JPEG", PHOTO[..., 0])[:-500] + b"\xff\xd9",
    "jpeg with restarts cut and closed": lambda: encode("JPEG", restart_marker_rows=1)[:-900] + b"\xff\xd9",
    "jpeg progressive cut and closed": lambda: encode("JPEG", progressive=True)[:-900] + b"\xff\xd9",
    "gif": lambda: double_gif(encode("GIF")),
    "bmp": lambda: patch(encode("BMP"), 22, struct.pack("<i", 2 * SIDE)),
    "ppm": lambda: encode("PPM").replace(b"72 72", b"72 144", 1),
    "ppm as text": lambda: b"P3\n4 4\n255\n" + b"1 2 3 " * 8,
    "tiff": lambda: tiff(),
    "tiff deflate": lambda: tiff(compression="tiff_deflate"),
    "tiff lzw": lambda: tiff(compression="tiff_lzw"),
    "tiff packbits": lambda: tiff(compression="packbits"),
    "tiff jpeg": lambda: tiff(compression="jpeg"),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_an_image_whose_data_do_not_cover_it_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "a.img").write_bytes(INCOMPLETE[name]())
    with pytest.raises(ImageFileError, match="is damaged or cut off"):
        read_image(tmp_path / "a.img")
    assert capfd.readouterr().err == ""  # libtiff has lines of its own


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"progressive": True}, {"subsampling": 0}, {"quality": 5}, {"quality": 100}, {"restart_marker_blocks": 4},
        {"restart_marker_rows": 1}, {"progressive": True, "restart_marker_rows": 1},
    ],
    ids=str,
)  # fmt: skip
def test_whole_jpeg_files_are_read(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    """Also those that look as if something were missing: their last pixel is the gray that libjpeg makes up."""
    for number, pixels in enumerate((PHOTO, np.full((65, 71, 3), 128, np.uint8), np.full((16, 16, 3), 255, np.uint8))):
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"{number}.jpg", **options)
        assert read_image(tmp_path / f"{number}.jpg").rgb.shape == pixels.shape


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM"])
def test_a_cut_file_is_refused_or_whole(tmp_path: Path, file_format: str) -> None:
    data = encode(file_format)
    path = tmp_path / "a.img"
    path.write_bytes(data)
    whole = read_image(path).rgb
    for length in {*range(0, len(data), max(1, len(data) // 25)), *range(len(data) - 25, len(data))}:
        path.write_bytes(data[:length])
        try:
            pixels = read_image(path).rgb
        except ImageFileError:
            continue
        assert np.array_equal(pixels, whole), length


def test_black_rows_at_the_end_are_no_sign_of_damage(tmp_path: Path) -> None:
    black = PHOTO.copy()
    black[-30:] = 0
    for suffix in ("png", "tif", "bmp", "webp"):
        Image.fromarray(black).save(tmp_path / f"a.{suffix}")
        assert read_image(tmp_path / f"a.{suffix}").rgb.shape == black.shape


def make_png_with(chunk_name: bytes, content: bytes, *, is_damaged: bool = False) -> bytes:
    checksum = zlib.crc32(chunk_name + content) ^ is_damaged
    plain = encode("PNG")
    return plain[:33] + struct.pack(">I", len(content)) + chunk_name + content + struct.pack(">I", checksum) + plain[33:]


def make_jpeg_with_exif(exif: bytes) -> bytes:
    plain = encode("JPEG")
    body = b"Exif\0\0" + exif
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


def make_tiff_with(tag: int, kind: int, count: int, value: int) -> bytes:
    data = encode("TIFF")
    (start,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, start)
    entries = [data[start + 2 + 12 * index :][:12] for index in range(tags)]
    entries = sorted(
        [*entries, struct.pack("<HHII", tag, kind, count, value)], key=lambda entry: struct.unpack_from("<H", entry)
    )
    end = len(data) + len(data) % 2
    return patch(data.ljust(end, b"\0"), 4, struct.pack("<I", end)) + struct.pack("<H", tags + 1) + b"".join(entries) + bytes(4)


BROKEN_METADATA: dict[str, Callable[[], bytes]] = {
    "jpeg exif with a broken byte order": lambda: make_jpeg_with_exif(b"\xff\0JUNKJUNK"),
    "jpeg exif that ends": lambda: make_jpeg_with_exif(b"MM\0*\0\0\0\x08\0\x05\x01"),
    "jpeg exif that points outside": lambda: make_jpeg_with_exif(b"II*\0\xff\xff\xff\xff"),
    "jpeg exif with an orientation that is none": lambda: make_jpeg_with_exif(
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0" + bytes(4)
    ),
    "png text with a wrong checksum": lambda: make_png_with(b"tEXt", b"a\0b", is_damaged=True),
    "png profile that is none": lambda: make_png_with(b"iCCP", b"icc\0\x07junk"),
    "png text that unpacks to too much": lambda: make_png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26))),
    "png exif that is none": lambda: make_png_with(b"eXIf", b"\xff\0JUNK"),
    "png size of a pixel that is cut": lambda: make_png_with(b"pHYs", b"\0"),
    "png gamma that is cut": lambda: make_png_with(b"gAMA", b"\0"),
    "png chromaticities that are cut": lambda: make_png_with(b"cHRM", b"\0\1\2"),
    "tiff exif outside of the file": lambda: make_tiff_with(34665, 4, 1, 0xFFFFFF00),
    "tiff gps that is no directory": lambda: make_tiff_with(34853, 4, 1, 3),
    "tiff orientation that is a text": lambda: make_tiff_with(274, 2, 4, 0x00636261),
    "tiff resolution outside of the file": lambda: make_tiff_with(282, 5, 1, 0xFFFFFF00),
    "tiff software outside of the file": lambda: make_tiff_with(305, 2, 4000, 0xFFFFFF00),
}


@pytest.mark.parametrize("name", BROKEN_METADATA)
def test_broken_metadata_never_costs_the_pixels(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    """So it is in ffmpeg and ImageMagick."""
    path = tmp_path / "a.img"
    path.write_bytes(BROKEN_METADATA[name]())
    file_format = name.partition(" ")[0].upper()
    plain = tmp_path / "b.img"
    plain.write_bytes(encode(file_format))
    assert np.array_equal(read_image(path).rgb, read_image(plain).rgb)
    assert capfd.readouterr().err == ""


def test_lines_of_libraries_do_not_go_to_stderr(tmp_path: Path) -> None:
    """In a process of its own: pytest takes what loggers write."""
    data = encode("TIFF")
    start = data.find(struct.pack("<HHI", 277, 3, 1))  # SamplesPerPixel
    (tmp_path / "a.tif").write_bytes(patch(data, start + 8, struct.pack("<H", 4096)))
    code = (
        "import sys; from dni_deploy.imaging.image_file import read_image\n"
        "try: read_image(sys.argv[1])\nexcept ValueError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.tif")], capture_output=True, text=True, check=True)
    assert "damaged or cut off" in result.stdout
    assert result.stderr == ""


def test_what_keeps_a_decoder_from_the_pixels_is_mentioned(tmp_path: Path) -> None:
    notes = {
        "png text with a wrong checksum": "damaged or too long chunks were left out: tEXt",
        "png exif that is none": "EXIF could not be read and was left out; the image was not rotated by it",
    }
    for name, note in notes.items():
        (tmp_path / "a.img").write_bytes(BROKEN_METADATA[name]())
        assert read_image(tmp_path / "a.img").notes == (note,)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_metadata_are_removed_and_pixels_are_not(file_format: str) -> None:
    exif = Image.Exif()
    exif[305], exif[274] = "a program", 3
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, file_format, exif=exif, dpi=(300, 300))
    bare = remove_metadata(buffer.getvalue())
    assert bare is not None
    assert b"a program" in buffer.getvalue()
    with Image.open(io.BytesIO(bare)) as image, Image.open(io.BytesIO(buffer.getvalue())) as source:
        assert "a program" not in map(str, image.getexif().values())
        assert np.array_equal(np.asarray(image), np.asarray(source))


def test_other_kinds_and_damaged_structures_have_no_bare_file() -> None:
    for data in (b"", b"GIF89a", b"\xff\xd8", b"\x89PNG\r\n\x1a\n\0\0", b"II*\0\xff\xff\xff\xff"):
        assert remove_metadata(data) is None


@pytest.mark.parametrize(("file_format", "mode"), [("BMP", "RGB"), ("BMP", "L"), ("BMP", "1"), ("PPM", "RGB"), ("PPM", "1")])
def test_uncompressed_rows_are_counted_before_anything_is_decoded(tmp_path: Path, file_format: str, mode: str) -> None:
    path = tmp_path / f"a.{file_format.lower()}"
    Image.fromarray(PHOTO).convert(mode).save(path, file_format)
    assert read_image(path).rgb.shape == (SIDE, SIDE, 3)
    data = path.read_bytes()
    taller = patch(data, 22, struct.pack("<i", 1 << 24)) if file_format == "BMP" else data.replace(b" 72\n", b" 7200000\n", 1)
    for damaged in (data[:-1], taller):
        path.write_bytes(damaged)
        with pytest.raises(ImageFileError, match="damaged or cut off"):
            read_image(path)

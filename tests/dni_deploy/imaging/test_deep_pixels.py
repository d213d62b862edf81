"""Images of 16 bits a channel and of floats: read and written at their depth, or at 8 bits with a note."""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from dni_deploy.errors import ImageFileError, InputError, LimitError, UnavailableError
from dni_deploy.imaging.color_profile import ColorProfile
from dni_deploy.imaging.image_file import ImageFile, read_frame, read_image, write_image
from dni_deploy.utils.install_line import format_install_line

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")

SHAPES = {"gray": (9, 7), "gray with alpha": (9, 7, 2), "RGB": (9, 7, 3), "RGB with alpha": (9, 7, 4)}


def random_values(shape: tuple[int, ...], dtype: Any = np.uint16) -> NDArray[Any]:
    values = np.random.default_rng(0).random(shape)
    if len(shape) == 3 and shape[2] in (2, 4):
        values[:, :3, -1] = 0
    return (values * 65535).astype(np.uint16) if dtype == np.uint16 else values.astype(dtype)


def write_tiff(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    separate = options.get("planarconfig") == "separate" and pixels.ndim == 3
    tifffile.imwrite(
        path,
        np.moveaxis(pixels, -1, 0) if separate else pixels,
        photometric=options.pop("photometric", "rgb" if channels > 2 else "minisblack"),
        extrasamples=options.pop("extrasamples", ["unassalpha"] if channels in (2, 4) else None),
        metadata=None,
        **{
            "planarconfig": "contig" if pixels.ndim == 3 else None,
            **options,
            **({} if pixels.ndim == 3 else {"planarconfig": None}),
        },
    )


def check_read(path: Path, pixels: NDArray[Any]) -> ImageFile:
    """Checks that an image was read as these pixels; hidden colors may be others."""
    image = read_image(path)
    has_alpha = pixels.ndim == 3 and pixels.shape[2] in (2, 4)
    colors = pixels[..., :-1] if has_alpha else pixels
    colors = np.broadcast_to(colors if colors.ndim == 3 else colors[..., None], image.rgb.shape)
    assert image.rgb.dtype == pixels.dtype
    assert image.is_gray == (pixels.ndim == 2 or pixels.shape[2] == 2)
    visible = np.ones(image.rgb.shape[:2], bool)
    if has_alpha:
        assert image.alpha is not None
        assert np.array_equal(image.alpha, pixels[..., -1])
        visible = pixels[..., -1] > 0
    else:
        assert image.alpha is None
    assert np.array_equal(image.rgb[visible], colors[visible])
    return image


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_png_of_16_bits_is_read_and_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = random_values(shape)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    image = check_read(tmp_path / "a.png", pixels)
    assert image.notes == ()
    for suffix in ("png", "tif"):
        assert write_image(tmp_path / f"b.{suffix}", image) == ()
        check_read(tmp_path / f"b.{suffix}", pixels)
    with Image.open(tmp_path / "b.png") as written:
        assert written.size == (7, 9)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "predictor": True},
        {"planarconfig": "separate"},  # of one channel there is nothing to separate
        {"byteorder": ">"},
        {"tile": (16, 16), "compression": "zlib"},
        {"rowsperstrip": 2},
        {"bigtiff": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_tiff_is_read(tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], dtype: Any) -> None:
    pixels = random_values(shape, dtype)
    write_tiff(tmp_path / "a.tif", pixels, **options)
    check_read(tmp_path / "a.tif", pixels)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_floats_are_written_back_as_they_are(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = random_values(shape, np.float32)
    write_tiff(tmp_path / "a.tif", pixels)
    assert write_image(tmp_path / "b.tif", read_image(tmp_path / "a.tif")) == ()
    check_read(tmp_path / "b.tif", pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_floats_of_other_sizes_become_those_of_32_bits(tmp_path: Path, dtype: Any) -> None:
    pixels = random_values((4, 5, 3), dtype)
    write_tiff(tmp_path / "a.tif", pixels)
    image = read_image(tmp_path / "a.tif")
    assert np.array_equal(image.rgb, pixels.astype(np.float32))
    assert bool(image.notes) == (dtype == np.float64)


def test_values_outside_of_black_and_white_stay_and_are_mentioned(tmp_path: Path) -> None:
    pixels = np.full((4, 5, 3), 0.5, np.float32)
    pixels[0, 0], pixels[1, 1] = 3.25, -0.5
    write_tiff(tmp_path / "a.tif", pixels)
    image = check_read(tmp_path / "a.tif", pixels)
    assert image.notes[0].startswith("values from -0.5 to 3.25 went to the network as they are")
    write_image(tmp_path / "b.tif", image)
    check_read(tmp_path / "b.tif", pixels)
    notes = write_image(tmp_path / "b.png", image)
    assert notes[-1] == (
        "floats became 16 bits: PNG holds no more, .tif keeps them, and values below black and above white with them"
    )
    written = read_image(tmp_path / "b.png").rgb
    assert (written[0, 0] == 65535).all()
    assert (written[1, 1] == 0).all()


def test_values_that_are_no_numbers_are_refused_where_they_are_seen(tmp_path: Path) -> None:
    pixels = random_values((4, 5, 4), np.float32)
    pixels[0, 0, :3] = np.nan  # hidden
    write_tiff(tmp_path / "a.tif", pixels)
    assert np.isfinite(read_image(tmp_path / "a.tif").rgb).all()
    pixels[3, 4, 1] = np.inf
    write_tiff(tmp_path / "a.tif", pixels)
    with pytest.raises(ImageFileError, match="NaN or infinite"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_format_of_8_bits_says_which_ones_keep_more(tmp_path: Path, suffix: str, dtype: Any) -> None:
    pixels = random_values((4, 5, 3), dtype)
    (note,) = write_image(tmp_path / f"a.{suffix}", ImageFile(pixels))
    assert "8 bits" in note
    assert ".tif" in note
    expected = np.rint(pixels / 257 if dtype == np.uint16 else pixels * 255)
    if suffix != "jpg":
        assert np.array_equal(read_image(tmp_path / f"a.{suffix}").rgb, expected)


def test_a_frame_of_8_bits_is_rounded(tmp_path: Path) -> None:
    pixels = random_values((4, 5, 3))
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    assert np.array_equal(read_frame(tmp_path / "a.png"), np.rint(pixels / 257).astype(np.uint8))


def test_white_as_zero_is_turned(tmp_path: Path) -> None:
    pixels = random_values((4, 5))
    write_tiff(tmp_path / "a.tif", pixels, photometric="miniswhite")
    check_read(tmp_path / "a.tif", 65535 - pixels)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_colors_that_were_multiplied_by_transparency_are_divided(tmp_path: Path, dtype: Any) -> None:
    straight = random_values((9, 7, 4), dtype)
    white = 65535 if dtype == np.uint16 else 1
    straight[:, 3:, 3] = np.maximum(straight[:, 3:, 3], white // 4 or 0.25)
    multiplied = straight.astype(np.float64)
    multiplied[..., :3] *= straight[..., 3:].astype(np.float64) / white
    write_tiff(
        tmp_path / "a.tif",
        np.rint(multiplied).astype(dtype) if white > 1 else multiplied.astype(dtype),
        extrasamples=["assocalpha"],
    )
    image = read_image(tmp_path / "a.tif")
    visible = straight[..., 3] > 0
    error = np.abs(image.rgb[visible].astype(np.float64) - straight[visible][:, :3])
    assert error.max() <= (2 if white > 1 else 1e-6)  # half a level, divided by a transparency of at least a quarter


def test_further_channels_are_left_out_with_a_note(tmp_path: Path) -> None:
    pixels = random_values((4, 5, 5))
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", planarconfig="contig", extrasamples=["unspecified"] * 2, metadata=None
    )
    image = read_image(tmp_path / "a.tif")
    assert np.array_equal(image.rgb, pixels[..., :3])
    assert image.alpha is None
    assert image.notes == ("left out: 2 further channels of the TIFF file",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    pixels = random_values((4, 5, 3))
    write_tiff(tmp_path / "a.tif", pixels, extratags=[(274, 3, 1, orientation, True)])
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray((pixels >> 8).astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
    deep, shallow = read_image(tmp_path / "a.tif").rgb, read_image(tmp_path / "a.png").rgb
    assert np.array_equal(deep >> 8, shallow)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_color_of_16_bits(tmp_path: Path, channels: int) -> None:
    pixels = np.full((4, 5, channels), 1000, np.uint16)
    pixels[0, 0] = 999  # differs by one level, which 8 bits would not tell apart
    plain = imagecodecs.png_encode(pixels if channels > 1 else pixels[..., 0])
    (tmp_path / "a.png").write_bytes(plain[:33] + chunk(b"tRNS", struct.pack(">H", 1000) * channels) + plain[33:])
    image = read_image(tmp_path / "a.png")
    assert image.alpha is not None
    assert image.alpha[0, 0] == 65535
    assert image.alpha.sum() == 65535
    assert (image.rgb == 999).all()  # hidden ones are filled


def test_metadata_of_a_png_never_costs_its_pixels(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pixels = random_values((4, 5, 3))
    plain = imagecodecs.png_encode(pixels)
    damaged = chunk(b"tEXt", b"a\0b")[:-1] + b"x"
    (tmp_path / "a.png").write_bytes(plain[:33] + damaged + plain[33:])
    image = check_read(tmp_path / "a.png", pixels)
    assert image.notes == ("damaged or too long chunks were left out: tEXt",)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_profile_is_carried(tmp_path: Path, suffix: str) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_image(tmp_path / f"a.{suffix}", ImageFile(random_values((4, 5, 3)), color=ColorProfile(icc)))
    assert read_image(tmp_path / f"a.{suffix}").color.icc == icc
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert image.info["icc_profile"] == icc


def test_kinds_of_pixels_that_networks_do_not_take_are_named(tmp_path: Path) -> None:
    write_tiff(tmp_path / "int.tif", np.ones((4, 5), np.int32))
    write_tiff(tmp_path / "signed.tif", np.ones((4, 5), np.int16))
    tifffile.imwrite(tmp_path / "cmyk.tif", random_values((4, 5, 4)), photometric="separated", metadata=None)
    Image.new("LAB", (4, 4)).save(tmp_path / "lab.tif")
    for name, what in (("int", "32 bits, int32"), ("signed", "16 bits, int16"), ("cmyk", "SEPARATED"), ("lab", "'LAB'")):
        with pytest.raises(ImageFileError, match=rf"{what}.*Convert it first, for example: magick"):
            read_image(tmp_path / f"{name}.tif")


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_an_incomplete_tiff_is_refused_and_nothing_else_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], compression: str | None
) -> None:
    pixels = random_values((40, 30, 3))
    write_tiff(tmp_path / "a.tif", pixels, compression=compression, rowsperstrip=10)
    whole = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(io.BytesIO(whole)) as tiff:
        offset, size = tiff.pages[0].dataoffsets[-1], tiff.pages[0].databytecounts[-1]
    assert offset + size == len(whole)
    for length in (len(whole) - 1, len(whole) - size, offset - 100):
        (tmp_path / "a.tif").write_bytes(whole[:length])
        with pytest.raises(ImageFileError, match="cut off"):
            read_image(tmp_path / "a.tif")
    if compression is not None:  # one strip decompresses to half of its rows
        half = pixels[30:35].tobytes()
        packed = zlib.compress(half) if compression == "zlib" else imagecodecs.lzw_encode(half)
        (tmp_path / "a.tif").write_bytes(whole[:offset] + packed + bytes(max(0, size - len(packed))))
        with pytest.raises(ImageFileError):
            read_image(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_an_incomplete_png_is_refused(tmp_path: Path, rows: int) -> None:
    row = b"\0" + bytes(range(1, 31))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageFileError, match="damaged or cut off"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("package", ["imagecodecs", "tifffile"])
def test_without_the_extra_one_sentence_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(random_values((4, 5, 3))))
    write_tiff(tmp_path / "a.tif", random_values((4, 5, 3), np.float32))
    monkeypatch.delitem(sys.modules, "dni_deploy.imaging.deep_pixels", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    for name, what in (("a.png", "16 bits a channel"), ("a.tif", "floats")):
        with pytest.raises(UnavailableError, match=rf"{name} has {what}\. .*{re.escape(format_install_line('deep'))}"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("white", [65535, 1023])
@pytest.mark.parametrize("channels", [1, 3])
def test_netpbm_of_16_bits_is_read(tmp_path: Path, white: int, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, white + 1, (4, 5, channels))
    header = b"P%d\n# by hand\n5 4\n%d\n" % (6 if channels == 3 else 5, white)
    (tmp_path / "a.ppm").write_bytes(header + pixels.astype(">u2").tobytes())
    image = read_image(tmp_path / "a.ppm")
    assert np.array_equal(image.rgb, np.broadcast_to(np.rint(pixels * 65535 / white), (4, 5, 3)))
    (tmp_path / "a.ppm").write_bytes(header + pixels.astype(">u2").tobytes()[:-1])
    with pytest.raises(ImageFileError, match="cut off"):
        read_image(tmp_path / "a.ppm")


@pytest.mark.parametrize("suffix", ["png", "tif", "float.tif"])
@pytest.mark.parametrize("channels", [2, 4])
def test_hidden_colors_do_not_reach_the_network(tmp_path: Path, suffix: str, channels: int) -> None:
    dtype = np.float32 if suffix == "float.tif" else np.uint16
    pixels = random_values((24, 28, channels), dtype)
    pixels[:9, 5:, -1] = 0
    frames = []
    for number, hidden in enumerate((0, 1, 65535 if dtype == np.uint16 else np.inf)):
        changed = pixels.copy()
        changed[pixels[..., -1] == 0, :-1] = hidden
        path = tmp_path / f"{number}.{suffix}"
        if suffix == "png":
            path.write_bytes(imagecodecs.png_encode(changed))
        else:
            write_tiff(path, changed)
        frames.append(read_image(path).rgb)
    assert all(np.array_equal(frame, frames[0]) for frame in frames)


@pytest.mark.parametrize("suffix", ["png", "tif", "lzw.tif"])
def test_damage_gives_an_error_of_ours_or_an_image(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    pixels, path, rng = random_values((6, 6, 3)), tmp_path / f"a.{suffix}", np.random.default_rng(0)
    if suffix == "png":
        path.write_bytes(imagecodecs.png_encode(pixels))
    else:
        write_tiff(path, pixels, compression="lzw" if suffix == "lzw.tif" else "zlib", predictor=True)
    whole = path.read_bytes()
    for _ in range(80):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with suppress(InputError, LimitError):
            read_image(path)
    assert capfd.readouterr().err == ""


def test_a_header_that_only_pillow_understands_is_refused_at_once(tmp_path: Path) -> None:
    """A comment in the middle of a number; the white space before it could be matched in 2^400 ways."""
    (tmp_path / "a.ppm").write_bytes(b"P5" + b" " * 400 + b"2 2 65#x\n535\n" + bytes(8))
    with pytest.raises(ImageFileError):
        read_image(tmp_path / "a.ppm")

"""AlphaMap: which files are read as maps, their levels, and the weights between levels."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dni_deploy.errors import ImageFileError, InputError, MismatchError, UsageError
from dni_deploy.spatial.alpha_map import DEFAULT_LEVELS, LEVEL_TOLERANCE, AlphaMap


def ramp(kind: type) -> np.ndarray:
    return np.linspace(0, np.iinfo(kind).max, 24).reshape(4, 6).astype(kind)


def values(alpha_map: AlphaMap) -> np.ndarray:
    return alpha_map.values[alpha_map.codes]


@pytest.mark.parametrize(
    ("name", "pixels", "expected"),
    [
        ("grey8.png", ramp(np.uint8), ramp(np.uint8) / 255),
        ("grey16.png", ramp(np.uint16), ramp(np.uint16) / 65535),
        ("grey16.tif", ramp(np.uint16), ramp(np.uint16) / 65535),
        ("equal.png", ramp(np.uint8)[..., None].repeat(3, axis=2), ramp(np.uint8) / 255),
        ("bits.png", ramp(np.uint8) > 99, (ramp(np.uint8) > 99) * 1.0),
    ],
)
def test_map_images_are_read(name: str, pixels: np.ndarray, expected: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    assert np.array_equal(values(AlphaMap.read(tmp_path / name)), expected)


def test_a_gray_palette_and_a_rotated_image_are_read_as_maps(tmp_path: Path) -> None:
    gray = Image.fromarray(ramp(np.uint8))
    gray.quantize(256).save(tmp_path / "palette.png")
    assert np.array_equal(values(AlphaMap.read(tmp_path / "palette.png")), ramp(np.uint8) / 255)
    exif = Image.Exif()
    exif[274] = 6  # EXIF orientation: rotated by 90 degrees
    gray.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(values(AlphaMap.read(tmp_path / "turned.png")), np.rot90(ramp(np.uint8), -1) / 255)


def refused(tmp_path: Path) -> dict[str, str]:
    rgb = np.zeros((4, 6, 3), np.uint8)
    Image.fromarray(rgb).putalpha(255)
    opaque = Image.fromarray(rgb)
    opaque.putalpha(255)
    opaque.save(tmp_path / "opaque.png")
    Image.fromarray(np.zeros((4, 6, 2), np.uint8), "LA").save(tmp_path / "gray-alpha.png")
    rgb[1, 2] = (255, 0, 0)
    Image.fromarray(rgb).save(tmp_path / "color.png")
    Image.fromarray(np.zeros((4, 6), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(rgb).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.fromarray(rgb)])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    return {
        "opaque.png": "transparency",
        "gray-alpha.png": "transparency",
        "color.png": "in color",
        "float.tif": "8 or 16 bits",
        "pages.tif": "several images",
        "empty.png": "empty",
        "text.png": "is not a PNG",
    }


def test_files_that_are_not_maps_are_refused(tmp_path: Path) -> None:
    for name, words in refused(tmp_path).items():
        with pytest.raises(ImageFileError, match=words):
            AlphaMap.read(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        AlphaMap.read(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 1), np.uint8), "array \\(height, width\\)"),
        (np.zeros((0, 4), np.uint8), "array \\(height, width\\)"),
        ([[0, 1]], "list"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.full((4, 4), 1.5), "0 \\(black\\) to 1"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), -1e-9, np.float32), "0 \\(black\\) to 1"),
    ],
)
def test_arrays_that_are_not_maps_are_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        AlphaMap.of(array)


def test_floats_keep_their_values() -> None:
    few = np.array([[0.1, 0.35], [0.9, 0.35]])
    assert np.array_equal(values(AlphaMap.of(few)), few)
    many = np.random.default_rng(0).random((300, 300))  # more values than codes: rounded to sixteen bits
    assert np.abs(values(AlphaMap.of(many)) - many).max() <= 0.5 / 65535 + 1e-12


def test_an_alpha_map_copies_its_pixels() -> None:
    array = np.zeros((4, 4), np.uint8)
    alpha_map = AlphaMap.of(array)
    array[:] = 255
    assert values(alpha_map).max() == 0


def test_few_values_are_the_levels_and_many_are_not() -> None:
    few = AlphaMap.of(np.array([[0, 7, 255]], np.uint8))
    assert np.array_equal(few.choose_levels(), np.array([0, 7, 255]) / 255)
    assert np.array_equal(few.choose_levels(3), few.choose_levels())
    assert np.array_equal(few.choose_levels(2), [0.0, 1.0])
    many = AlphaMap.of(np.arange(256, dtype=np.uint8)[None])
    assert np.array_equal(many.choose_levels(), np.linspace(0, 1, DEFAULT_LEVELS))
    assert many.choose_levels(256).size == 256
    for wrong in (1, 0, 257, 2.5, True):
        with pytest.raises(UsageError, match="2 to 256 levels"):
            many.choose_levels(wrong)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=40), st.integers(2, 12))
def test_weights_are_linear_between_neighbours(codes: list[int], most: int) -> None:
    alpha_map = AlphaMap.of(np.array([codes], np.uint16))
    levels = alpha_map.choose_levels(most)
    weights = alpha_map.compute_weights(levels)[:, alpha_map.codes[0]].astype(np.float64)
    # float32 weights: each is off by at most 6e-8, a sum of two by 1.2e-7; LEVEL_TOLERANCE where a value snapped to a level.
    assert np.abs(weights.sum(axis=0) - 1).max() <= 1.2e-7
    off = np.abs(levels @ weights - np.array(codes) / 65535)
    near = np.abs(np.array(codes)[:, None] / 65535 - levels).min(axis=1) <= LEVEL_TOLERANCE
    assert (off <= np.where(near, LEVEL_TOLERANCE, 0) + 1.2e-7).all()
    assert (np.count_nonzero(weights, axis=0) <= 2).all()
    at_a_level = np.isin(np.array(codes) / 65535, levels)
    assert np.array_equal(weights[:, at_a_level].max(axis=0), np.ones(at_a_level.sum()))


def test_scaling_and_sizes() -> None:
    alpha_map = AlphaMap.of(np.array([[0, 255], [0, 255]], np.uint8))
    assert alpha_map.resize_to(2, 2) is alpha_map
    wide = values(alpha_map.resize_to(8, 8))
    assert wide.shape == (8, 8)
    assert (np.diff(wide, axis=1) >= 0).all()
    assert (wide[:, 0] == 0).all()
    assert (wide[:, -1] == 1).all()
    alpha_map.check_fits(2, 2, 4)
    wide_map = AlphaMap.of(np.zeros((8, 8), np.uint8))
    wide_map.check_fits(2, 2, 4)
    with pytest.raises(MismatchError, match=r"8x8 pixels and the image 3x2 \(its output 12x8\)"):
        wide_map.check_fits(2, 3, 4)


def test_resizing_a_map_adds_no_levels() -> None:
    """An eighth is not representable in 16 bits, but is a level all the same."""
    flat = AlphaMap.of(np.full((8, 8), 0.125)).resize_to(20, 30)
    levels = np.linspace(0, 1, 9)
    assert np.count_nonzero(flat.compute_weights(levels)[:, flat.used_codes()].any(axis=1)) == 1


def test_snapping_to_levels_removes_coding_noise() -> None:
    noisy = AlphaMap.of(np.array([[0, 2, 3, 4, 128, 252, 255]], np.uint8))
    snapped = noisy.snap_to_levels(np.array([0.0, 1.0]), 3.5 / 255)
    assert np.array_equal(values(snapped)[0], [0, 0, 0, 4 / 255, 128 / 255, 1, 1])


def test_an_incomplete_map_is_refused(tmp_path: Path) -> None:
    """Its last rows would be black, which is an alpha."""
    row = b"\0" + bytes(range(1, 9))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(row * 4)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(ImageFileError, match="damaged or cut off"):
        AlphaMap.read(tmp_path / "a.png")

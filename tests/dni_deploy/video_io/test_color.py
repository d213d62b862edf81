"""Colour, rotation, size: what the pixels mean is kept, and what had to be guessed or changed is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace

from dni_deploy.video_io.color import (
    ColorConverter,
    ColorSpec,
    FromRgbConverter,
    ToRgbConverter,
    choose_matrix,
    pad_size_to_even,
    pad_to_even,
)
from dni_deploy.video_io.y4m import CHROMA_SUBSAMPLING, compute_plane_sizes
from tests.dni_deploy.api.test_video import psnr
from tests.support.frame_session import Dimmer
from tests.support.video_clips import Clip, picture, see
from tests.support.video_command import Make

PATCHES = [(16, 16, 16), (235, 20, 30), (20, 200, 40), (30, 40, 220), (128, 128, 128), (240, 240, 240), (250, 200, 30)]

COEFFICIENTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def by_hand(rgb: tuple[int, ...], matrix: int, full: bool) -> tuple[float, ...]:
    """Y, Cb, Cr of 8 bits by the standards' own equations (BT.601 2.5, BT.709 3.2, BT.2020 table 4)."""
    red, green, blue = (value / 255 for value in rgb)
    kr, kb = COEFFICIENTS[matrix]
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    return (255 * y, 128 + 255 * cb, 128 + 255 * cr) if full else (16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr)


@pytest.mark.parametrize("matrix", COEFFICIENTS)
@pytest.mark.parametrize("full", [False, True])
def test_flat_colours_there_and_back(matrix: int, full: bool) -> None:
    colour = ColorSpec(matrix, full, 1, 1, False)
    if colour.swscale_colorspace not in Colorspace.__members__:
        pytest.skip(f"this PyAV does not know {colour.swscale_colorspace}")
    there, back = FromRgbConverter(colour), ToRgbConverter(colour)
    for rgb in PATCHES:
        frame = there(np.full((16, 16, 3), rgb, np.uint8))
        planes = [int(np.frombuffer(bytes(plane), np.uint8)[0]) for plane in frame.planes]
        # The scaler computes with tables of 8 bits and rounds twice.
        assert np.allclose(planes, np.clip(by_hand(rgb, matrix, full), 0, 255), atol=1.5)
        assert np.abs(back(frame).astype(int) - rgb).max() <= 3
        assert (int(frame.colorspace), int(frame.color_range)) == (matrix, 2 if full else 1)


def test_untagged_films_are_taken_by_their_lines() -> None:
    for height, matrix in ((48, 6), (576, 6), (719, 6), (720, 1), (2160, 1)):
        colour = ColorSpec.from_frame(av.VideoFrame(64, height, "yuv420p"))
        assert (colour.matrix, colour.is_full_range, colour.is_guessed) == (matrix, False, True)
    assert ColorSpec.from_frame(av.VideoFrame(64, 48, "yuvj420p")).is_full_range
    assert not ColorSpec.from_frame(av.VideoFrame(64, 48, "rgb24")).is_guessed


def test_an_untagged_film_is_told_and_tagged(tmp_path: Path, make: Make) -> None:
    source = Clip(matrix=None, audio=None).write(tmp_path / "in.mp4")
    report = make(source, tmp_path / "out.mp4")
    assert any("taken for BT.601" in note for note in report.notes)
    assert see(tmp_path / "out.mp4").tags["matrix"] == 6
    assert (
        psnr(see(tmp_path / "out.mp4").frames[5], picture(5)) > 28
    )  # as LOSSY of test_video, through two codecs from the photograph


def test_odd_sides_keep_every_pixel(tmp_path: Path, make: Make) -> None:
    source = Clip(width=63, height=47, codec="ffv1", pixels="bgr0", matrix=None, audio=None).write(tmp_path / "in.mkv")
    report = make(source, tmp_path / "out.mp4")
    assert (report.width, report.height) == (64, 48)
    assert any("63x47 is odd: the last column and the last row are repeated" in note for note in report.notes)
    assert psnr(see(tmp_path / "out.mp4").frames[3][:47, :63], picture(3, 63, 47)) > 28
    rgb = picture(0, 5, 3)
    assert np.array_equal(pad_to_even(rgb)[:3, :5], rgb)
    assert np.array_equal(pad_to_even(rgb)[3, :5], rgb[2])
    assert pad_size_to_even(1, 1) == (2, 2)


def test_one_pixel(tmp_path: Path, make: Make) -> None:
    source = Clip(width=1, height=1, codec="ffv1", pixels="bgr0", matrix=None, audio=None).write(tmp_path / "in.mkv")
    make(source, tmp_path / "out.mp4")
    assert see(tmp_path / "out.mp4").frames[0].shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("clip", "told"),
    [
        (Clip(pixels="yuv420p10le"), "more than 8 bits"),
        (Clip(pixels="yuv444p"), "becomes 4:2:0"),
        (Clip(options={"x264-params": "tff=1"}), "interlaced"),
        (Clip(codec="ffv1", pixels="bgra", matrix=None), "transparent"),
    ],
    ids=["10 bit", "4:4:4", "interlaced", "transparent"],
)
def test_what_cannot_stay_is_told(tmp_path: Path, make: Make, clip: Clip, told: str) -> None:
    report = make(clip.write(tmp_path / "in.mkv"), tmp_path / "out.mkv")
    assert any(told in note for note in report.notes)
    assert report.frames == len(see(tmp_path / "out.mkv").frames) == clip.frames


def turned(path: Path, quarter: int) -> Path:
    """Write another display matrix into an MP4's first track header (ISO 14496-12, 8.3.2)."""
    matrices: dict[int, tuple[int, ...]] = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}
    a, b, c, d = matrices[quarter]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    for place, value in ((0, a), (1, b), (3, c), (4, d)):
        data[start + 4 * place : start + 4 * place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_rotation_is_applied(tmp_path: Path, make: Make, engine: Dimmer, quarter: int) -> None:
    """A matrix (a, b, c, d) sends a picture's point (x, y) to (ax + cy, bx + dy), y downward: quarter turns clockwise."""
    source = turned(Clip(audio=None).write(tmp_path / "in.mp4"), quarter)
    make(source, tmp_path / "out.mp4")
    after: Any = see(tmp_path / "out.mp4")
    expected = np.rot90(picture(4), -quarter)
    assert after.tags["rotation"] == 0
    assert after.frames[4].shape == expected.shape
    assert psnr(after.frames[4], expected) > 28


def test_super_resolution(tmp_path: Path, make: Make, engine: Dimmer) -> None:
    engine.scale = 4
    source = Clip().write(tmp_path / "in.mp4")
    report = make(source, tmp_path / "out.mp4")
    after = see(tmp_path / "out.mp4")
    assert (report.width, report.height) == (256, 192)
    assert after.times == see(source).times
    assert psnr(after.frames[2], see(source).frames[2].repeat(4, 0).repeat(4, 1)) > 28


pytest.importorskip("av", reason="colour is converted by PyAV (extra `video`)")

WEIGHTS = {"709": (0.2126, 0.0722), "601": (0.299, 0.114)}
"""Kr and Kb of ITU-R BT.709 and BT.601."""


def rgb_by_hand(y: int, u: int, v: int, matrix: str, full: bool) -> np.ndarray:
    """RGB, 0 to 255, float64 (3,)."""
    red, blue = WEIGHTS[matrix]
    luma, pb, pr = (y / 255, (u - 128) / 255, (v - 128) / 255) if full else ((y - 16) / 219, (u - 128) / 224, (v - 128) / 224)
    r, b = luma + 2 * (1 - red) * pr, luma + 2 * (1 - blue) * pb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.array([r, g, b]) * 255, 0, 255)


def flat(width: int, height: int, chroma: str, values: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    return tuple(
        np.full(size, value, np.uint8) for size, value in zip(compute_plane_sizes(width, height, chroma), values, strict=False)
    )


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["709", "601"])
@pytest.mark.parametrize("chroma", CHROMA_SUBSAMPLING)
def test_flat_patches(chroma: str, matrix: str, full: bool) -> None:
    """There: within 1.5, half of it rounding to whole steps, the rest swscale's tables. Back: within 1, rounding of three colours."""
    random = np.random.default_rng(0)
    colour = ColorConverter(32, 18, chroma, matrix, full)
    for _ in range(8):
        y, u, v = (int(random.integers(low, high)) for low, high in ((70, 180), (105, 150), (105, 150)))
        if chroma == "mono":
            u = v = 128
        planes = flat(32, 18, chroma, (y, u, v))
        rgb = colour.to_rgb(planes)
        assert np.abs(rgb - rgb_by_hand(y, u, v, matrix, full)).max() <= 1.5
        back = tuple(np.zeros_like(plane) for plane in planes)
        colour.from_rgb(rgb, back)
        for before, after in zip(planes, back, strict=True):
            assert np.abs(before.astype(int) - after).max() <= 1


def test_the_wrong_matrix_shows() -> None:
    """The test above can fail: the two matrices are more than 10 steps apart on a saturated patch."""
    planes = flat(16, 16, "444", (100, 90, 190))
    assert (
        np.abs(
            ColorConverter(16, 16, "444", "709", False).to_rgb(planes).astype(int) - rgb_by_hand(100, 90, 190, "601", False)
        ).max()
        > 10
    )
    assert (
        np.abs(
            ColorConverter(16, 16, "444", "709", False).to_rgb(planes).astype(int) - rgb_by_hand(100, 90, 190, "709", True)
        ).max()
        > 10
    )


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (33, 1), (2, 2), (7, 5), (16, 17), (17, 16), (63, 47)])
@pytest.mark.parametrize("chroma", CHROMA_SUBSAMPLING)
def test_odd_sizes(chroma: str, width: int, height: int) -> None:
    """Flat in, flat out, to the last column and row; 2: swscale takes another, coarser path for some sizes."""
    colour = ColorConverter(width, height, chroma, "709", False)
    planes = flat(width, height, chroma, (120, 110, 140))
    rgb = colour.to_rgb(planes)
    assert rgb.shape == (height, width, 3)
    assert np.ptp(rgb.reshape(-1, 3), axis=0).max() == 0
    back = tuple(np.zeros_like(plane) for plane in planes)
    colour.from_rgb(rgb, back)
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(planes, back, strict=True)) <= 2


def test_there_and_back() -> None:
    """A smooth picture in 4:2:0 survives: luma within 1 (rounding), chroma within 2 (it is interpolated and averaged again)."""
    rows, columns = np.mgrid[0:48, 0:64]
    luma = (110 + 40 * np.sin(rows / 7) * np.cos(columns / 9)).astype(np.uint8)
    chroma = [(128 + 20 * np.sin(rows[::2, ::2] / (9 + k) + k)).astype(np.uint8) for k in range(2)]
    colour = ColorConverter(64, 48, "420jpeg", "709", False)
    back = tuple(np.zeros_like(plane) for plane in (luma, *chroma))
    colour.from_rgb(colour.to_rgb((luma, *chroma)), back)
    errors = [int(np.abs(a.astype(int) - b).max()) for a, b in zip((luma, *chroma), back, strict=True)]
    assert errors[0] <= 1
    assert max(errors[1:]) <= 2


def test_the_usual_rule() -> None:
    assert [choose_matrix("auto", lines) for lines in (480, 576, 719, 720, 1080)] == ["601", "601", "601", "709", "709"]
    assert choose_matrix("601", 1080) == "601"
    assert choose_matrix("709", 240) == "709"

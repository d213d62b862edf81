"""Colour: flat patches against Y'CbCr by hand, and the way there and back."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("av", reason="colour is converted by PyAV (extra `video`)")
from dni_deploy.video_io.colour import ColorConverter, choose_matrix
from dni_deploy.video_io.y4m import CHROMA_SUBSAMPLING, compute_plane_sizes

WEIGHTS = {"709": (0.2126, 0.0722), "601": (0.299, 0.114)}
"""Kr and Kb of ITU-R BT.709 and BT.601."""


def by_hand(y: int, u: int, v: int, matrix: str, full: bool) -> np.ndarray:
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
        assert np.abs(rgb - by_hand(y, u, v, matrix, full)).max() <= 1.5
        back = tuple(np.zeros_like(plane) for plane in planes)
        colour.from_rgb(rgb, back)
        for before, after in zip(planes, back, strict=True):
            assert np.abs(before.astype(int) - after).max() <= 1


def test_the_wrong_matrix_shows() -> None:
    """The test above can fail: the two matrices are more than 10 steps apart on a saturated patch."""
    planes = flat(16, 16, "444", (100, 90, 190))
    assert (
        np.abs(
            ColorConverter(16, 16, "444", "709", False).to_rgb(planes).astype(int) - by_hand(100, 90, 190, "601", False)
        ).max()
        > 10
    )
    assert (
        np.abs(
            ColorConverter(16, 16, "444", "709", False).to_rgb(planes).astype(int) - by_hand(100, 90, 190, "709", True)
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

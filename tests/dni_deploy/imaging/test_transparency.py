"""Colors that transparency hides influence no visible pixel; transparency is resized at its own depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dni_deploy.imaging.frames import WHITE_LEVELS
from dni_deploy.imaging.transparency import fill_hidden_colors, resize_transparency


def make_disk(dtype: Any, size: int = 33) -> tuple[Any, Any]:
    """Makes random colors and the transparency of a disk with a soft rim."""
    rng = np.random.default_rng(0)
    white = WHITE_LEVELS[np.dtype(dtype)]
    rgb = (rng.random((size, size + 4, 3)) * white).astype(dtype)
    y, x = np.mgrid[:size, : size + 4]
    alpha = np.clip(size / 3 - np.hypot(y - size / 2, x - size / 2), 0, 1)
    return rgb, np.rint(alpha * white).astype(dtype) if dtype != np.float32 else alpha.astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_hidden_colors_have_no_influence_and_visible_ones_stay(dtype: Any) -> None:
    rgb, alpha = make_disk(dtype)
    first = fill_hidden_colors(rgb, alpha)
    assert first.dtype == dtype
    assert np.array_equal(first[alpha > 0], rgb[alpha > 0])
    hidden = [0, WHITE_LEVELS[np.dtype(dtype)]] + ([np.nan, np.inf] if dtype == np.float32 else [])
    for value in hidden:
        other = rgb.copy()
        other[alpha == 0] = value
        assert np.array_equal(fill_hidden_colors(other, alpha), first)


def test_a_flat_color_is_continued_exactly_to_the_corners() -> None:
    rgb, alpha = make_disk(np.uint8)
    rgb[:] = 99
    rgb[alpha > 0] = (230, 60, 40)
    assert (fill_hidden_colors(rgb, alpha) == (230, 60, 40)).all()


def test_the_neighborhood_of_the_rim_continues_a_ramp() -> None:
    ramp = np.repeat(np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 3, 64, axis=0), 3, axis=2)
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(y - 32, x - 32)
    alpha = np.where(radius < 20, 255, 0).astype(np.uint8)
    rgb = ramp.copy()
    rgb[alpha == 0] = 255
    near = (alpha == 0) & (radius < 22)
    error = np.abs(fill_hidden_colors(rgb, alpha).astype(int) - ramp)[near]
    assert error.max() <= 18  # six pixels of the ramp; the hidden white is up to 230 away


def test_faint_pixels_count_by_their_opacity() -> None:
    rgb = np.array([[[0, 0, 0], [200, 200, 200], [9, 9, 9], [9, 9, 9]]], np.uint8)
    filled = fill_hidden_colors(rgb, np.array([[1, 199, 0, 0]], np.uint8))
    assert filled[0, 2:].tolist() == [[199] * 3] * 2


@pytest.mark.parametrize("value", [0, 7, 255])
def test_transparency_of_one_value_changes_nothing(value: int) -> None:
    rgb, alpha = make_disk(np.uint8)
    assert fill_hidden_colors(rgb, np.full_like(alpha, value)) is rgb


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_transparency_is_resized_at_its_depth(dtype: Any) -> None:
    _, alpha = make_disk(dtype)
    assert resize_transparency(alpha, *alpha.shape) is alpha
    resized = resize_transparency(alpha, 2 * alpha.shape[0], 2 * alpha.shape[1])
    assert resized.dtype == dtype
    white = WHITE_LEVELS[np.dtype(dtype)]
    assert resized.min() == 0
    assert resized.max() == white
    assert np.abs(resized[::2, ::2] / white - alpha / white).max() < 0.3

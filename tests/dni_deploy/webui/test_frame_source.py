"""Scaling a frame to fit, and the source of a still image."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dni_deploy.webui.frame_source import StillImage, compute_fitted_size, fit_to_size


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(64, 48, (64, 48)), (30, 20, (30, 20)), (1280, 720, (64, 36)), (1, 4000, (1, 48))]
)
def test_fitting_keeps_the_aspect_and_never_enlarges(width: int, height: int, expected: tuple[int, int]) -> None:
    assert compute_fitted_size(width, height, (64, 48)) == expected


def test_a_frame_that_fits_is_not_copied_unless_it_is_not_contiguous() -> None:
    frame = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    assert fit_to_size(frame, (8, 6)) is frame
    flipped = fit_to_size(frame[:, ::-1], (8, 6))
    assert flipped.flags.c_contiguous
    assert np.array_equal(flipped, frame[:, ::-1])


def test_a_frame_is_averaged_when_it_is_scaled_down() -> None:
    checkerboard = np.zeros((64, 64, 3), np.uint8)
    checkerboard[::2, ::2] = checkerboard[1::2, 1::2] = 200
    small = fit_to_size(checkerboard, (16, 16)).astype(float)
    assert small.shape == (16, 16, 3)
    assert np.abs(small - 100).max() <= 2  # each pixel is the mean of a whole window of the filter, rounded twice


def test_a_still_image_always_returns_one_frame() -> None:
    image_source = StillImage(np.full((96, 128, 3), 7, np.uint8), "a name", (64, 64))
    assert image_source.get_frame(0.0) is image_source.get_frame(1000.0)
    assert image_source.get_frame(0.0).frame.shape == (48, 64, 3)
    assert (image_source.name, image_source.is_moving, image_source.seconds_until_next(5.0)) == ("a name", False, math.inf)

"""Frames resized by Lanczos: sizes, depths, and the values between."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.imaging.resize import resize_frame


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("size", [(5, 7), (40, 30), (16, 12), (1, 1)])
def test_a_constant_frame_stays_constant(dtype: type, size: tuple[int, int]) -> None:
    frame = np.full((12, 16, 3), (0.25, 1, 0) if dtype == np.float32 else (60, np.iinfo(dtype).max, 0), dtype)
    resized = resize_frame(frame, *size)
    assert resized.shape == (size[1], size[0], 3)
    assert resized.dtype == dtype
    assert np.allclose(resized, frame[0, 0], rtol=1e-6)


def test_depths_agree() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    by_depth = [resize_frame(frame, 17, 41), resize_frame(frame.astype(np.uint16) * 257, 17, 41) / 257]
    by_depth.append(np.clip(resize_frame(frame.astype(np.float32) / 255, 17, 41), 0, 1) * 255)
    assert np.abs(by_depth[0] - by_depth[1]).max() <= 0.5 + 1 / 257
    assert np.abs(by_depth[1] - by_depth[2]).max() <= 1 / 257 + 1e-3


def test_integers_are_clamped_where_lanczos_overshoots() -> None:
    frame = np.zeros((8, 8, 3), np.uint16)
    frame[:, 4:] = 65535
    resized = resize_frame(frame, 64, 8)
    assert (resized.min(), resized.max()) == (0, 65535)
    assert (np.diff(resized[0, 24:40, 0].astype(int)) >= 0).all()


def test_a_frame_of_that_size_is_returned() -> None:
    frame = np.zeros((4, 6, 3), np.uint8)
    assert resize_frame(frame, 6, 4) is frame

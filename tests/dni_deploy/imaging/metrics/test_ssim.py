"""SSIM of flat frames has a closed form, and equal frames are 1."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.imaging.metrics.ssim import ssim


def test_flat_frames_differ_by_the_luminance_term_alone() -> None:
    dark, bright = np.full((16, 16, 3), 60, np.uint8), np.full((16, 16, 3), 180, np.uint8)
    constant = (0.01 * 255) ** 2  # C1 of the paper
    expected = (2 * 60 * 180 + constant) / (60**2 + 180**2 + constant)
    assert ssim(dark, bright) == pytest.approx(expected, abs=1e-12)  # float64 means of 121 equal values
    assert ssim(dark, dark) == pytest.approx(1, abs=1e-12)

"""CIEDE2000 of known colors."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.imaging.metrics.ciede2000 import ciede2000


def test_black_and_white_differ_by_a_hundred() -> None:
    """The lightness of white; CIEDE2000's own weights are 1 there but for S_L, which is 1 + 0.015 * 0 at the mean of 50."""
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert ciede2000(black, white) == pytest.approx(100, abs=0.01)  # skimage's white is D65 to four digits

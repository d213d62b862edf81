"""Metrics refuse frames of other sizes and frames that are too small."""

from __future__ import annotations

import types

import numpy as np
import pytest

from dni_deploy.errors import MismatchError
from dni_deploy.imaging.metrics.ciede2000 import ciede2000
from dni_deploy.imaging.metrics.haarpsi import haarpsi
from dni_deploy.imaging.metrics.ssim import ssim
from tests.support.noisy_ramp import make_noisy_ramp


@pytest.mark.parametrize(("measure", "size"), [(ssim, 10), (haarpsi, 15)])
def test_small_frames_are_refused(measure: types.FunctionType, size: int) -> None:
    small = np.zeros((size, 40, 3), np.uint8)
    with pytest.raises(MismatchError, match="pixels a side"):
        measure(small, small)


def test_frames_of_another_size_are_refused() -> None:
    for measure in (ssim, haarpsi, ciede2000):
        with pytest.raises(MismatchError, match="one size"):
            measure(make_noisy_ramp(), make_noisy_ramp(height=66))

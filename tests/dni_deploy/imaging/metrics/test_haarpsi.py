"""HaarPSI equals an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.imaging.metrics.haarpsi import haarpsi
from tests.support.noisy_ramp import make_noisy_ramp


def test_haarpsi_equals_piq(monkeypatch: pytest.MonkeyPatch) -> None:
    """PIQ 0.8.0 in float64 is independent; it rounds RGB_TO_YIQ to four decimals, the authors and this package to three."""
    piq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    monkeypatch.setattr("dni_deploy.imaging.metrics.haarpsi.RGB_TO_YIQ", piq)
    # 1e-12: float64 sums of 1,536 terms in another order
    assert haarpsi(make_noisy_ramp(1), make_noisy_ramp(0)) == pytest.approx(0.8286411327319916, abs=1e-12)
    assert haarpsi(make_noisy_ramp(0)[::-1].copy(), make_noisy_ramp(0)) == pytest.approx(0.590242422333985, abs=1e-12)

"""LPIPS calls the user's package and reports its absence."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from dni_deploy.errors import UnavailableError
from dni_deploy.imaging.metrics.lpips import _load_network
from dni_deploy.imaging.metrics.registry import find_metric
from tests.support.noisy_ramp import make_noisy_ramp


def test_lpips_calls_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    _load_network.cache_clear()
    monkeypatch.setitem(sys.modules, "lpips", None)
    score = find_metric("lpips")
    with pytest.raises(UnavailableError, match="pip install lpips"):
        score.measure(make_noisy_ramp(), make_noisy_ramp())

    class Distance(torch.nn.Module):
        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            assert one.shape == (1, 3, 64, 48)
            assert -1 <= one.min() < one.max() <= 1
            return (one - other).abs().mean().reshape(1, 1, 1, 1)

    fake = types.ModuleType("lpips")
    fake.LPIPS = lambda net, verbose: Distance()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", fake)
    one, other = make_noisy_ramp(), 255 - make_noisy_ramp()
    expected = np.abs(one.astype(float) - other).mean() / 127.5
    assert score.measure(one, other) == pytest.approx(expected, rel=1e-5)  # float32 sums of 9,216 values
    assert not score.higher_is_better
    _load_network.cache_clear()

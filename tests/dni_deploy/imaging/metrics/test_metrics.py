"""Scores: against independent implementations and known values; the user's own functions and what goes wrong in them."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.errors import MismatchError, UnavailableError, UsageError
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.ciede2000 import ciede2000
from dni_deploy.imaging.metrics.haarpsi import haarpsi
from dni_deploy.imaging.metrics.lpips import _load_network
from dni_deploy.imaging.metrics.registry import METRIC_NAMES, find_metric
from dni_deploy.imaging.metrics.ssim import ssim


def picture(seed: int = 0, height: int = 64, width: int = 48) -> Frame:
    """A smooth ramp with noise, so that every scale of a measure has something to see."""
    rows, columns = np.mgrid[:height, :width]
    ramp = np.stack([4 * columns, 3 * rows, 255 - 2 * rows], axis=2) % 256
    noise = np.random.default_rng(seed).normal(0, 12, ramp.shape)
    return np.clip(np.rint(ramp + noise), 0, 255).astype(np.uint8)


def test_haarpsi_is_that_of_piq(monkeypatch: pytest.MonkeyPatch) -> None:
    """PIQ 0.8.0 in float64, another implementation; it rounds the RGB_TO_YIQ matrix to four decimals, the authors, as here, to three."""
    piq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    monkeypatch.setattr("dni_deploy.imaging.metrics.haarpsi.RGB_TO_YIQ", piq)
    # 1e-12: float64 sums of 1,536 terms in another order
    assert haarpsi(picture(1), picture(0)) == pytest.approx(0.8286411327319916, abs=1e-12)
    assert haarpsi(picture(0)[::-1].copy(), picture(0)) == pytest.approx(0.590242422333985, abs=1e-12)


def test_equal_pictures_are_best_by_every_measure() -> None:
    one = picture()
    assert haarpsi(one, one) == pytest.approx(1, abs=1e-9)
    assert ssim(one, one) == pytest.approx(1, abs=1e-9)
    assert ciede2000(one, one) == 0
    black = np.zeros((32, 32, 3), np.uint8)
    assert haarpsi(black, black) == 1


def test_more_noise_is_worse_by_every_measure() -> None:
    clean = picture()
    noise = np.random.default_rng(3).normal(0, 1, clean.shape)
    for name in ("psnr", "ssim", "haarpsi", "ciede2000"):
        score = find_metric(name)
        values = [
            score.to_utility(score.measure(np.clip(clean + s * noise, 0, 255).astype(np.uint8), clean)) for s in (5, 15, 40)
        ]
        assert values == sorted(values, reverse=True), name


def test_black_and_white_differ_by_a_hundred() -> None:
    """The lightness of white; CIEDE2000's own weights are 1 there but for S_L, which is 1 + 0.015 * 0 at the mean of 50."""
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert ciede2000(black, white) == pytest.approx(100, abs=0.01)  # skimage's white is D65 to four digits


@pytest.mark.parametrize(("measure", "size"), [(ssim, 10), (haarpsi, 15)])
def test_too_small(measure: types.FunctionType, size: int) -> None:
    small = np.zeros((size, 40, 3), np.uint8)
    with pytest.raises(MismatchError, match="pixels a side"):
        measure(small, small)


def test_of_another_size() -> None:
    for measure in (ssim, haarpsi, ciede2000):
        with pytest.raises(MismatchError, match="one size"):
            measure(picture(), picture(height=66))


def test_texts_and_signs() -> None:
    psnr, colour = find_metric("psnr"), find_metric("ciede2000")
    assert psnr.format_value(27.314) == "27.31 dB"
    assert psnr.format_value(math.inf) == "identical"
    assert colour.format_value(1.5) == "1.5000"
    assert colour.format_value(math.inf) == "infinite"
    assert (psnr.to_utility(2.0), colour.to_utility(2.0)) == (2.0, -2.0)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own in the current folder, which an installed command does not have on its path."""
    (tmp_path / "own_metrics.py").write_text(
        "def bright(picture, reference): return picture.mean()\n"
        "def spoils(picture, reference): picture[:] = 0; return 1\n"
        "def nan(picture, reference): return float('nan')\n"
        "def text(picture, reference): return 'good'\n"
        "def fails(picture, reference): return 1 / 0\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)


@pytest.mark.usefixtures("own")
def test_a_function_of_the_users_own() -> None:
    score, lower = find_metric("own_metrics:bright"), find_metric("min:own_metrics:bright")
    one = picture()
    assert score.measure(one, one) == one.mean()
    assert (score.higher_is_better, lower.higher_is_better, lower.name) == (True, False, "own_metrics:bright")
    before = one.copy()
    find_metric("own_metrics:spoils").measure(one, one)
    np.testing.assert_array_equal(one, before)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sharpness", "There is no metric 'sharpness'; there are psnr, ssim, haarpsi, ciede2000, lpips, or your own"),
        ("own_metrics:none", "has no 'none'"),
        ("own_metrics:number", "is a int, not a function that returns a number"),
        ("nowhere_at_all:f", "cannot be imported"),
        ("own_metrics:nan", "gave NaN"),
        ("own_metrics:text", "gave a str; it must give one number"),
        ("own_metrics:fails", "failed: ZeroDivisionError"),
    ],
)
def test_what_goes_wrong_is_told(name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        find_metric(name).measure(picture(), picture())
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_lpips_is_asked_of_the_users_package(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    _load_network.cache_clear()
    monkeypatch.setitem(sys.modules, "lpips", None)
    score = find_metric("lpips")
    with pytest.raises(UnavailableError, match="pip install lpips"):
        score.measure(picture(), picture())

    class Distance(torch.nn.Module):
        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            assert one.shape == (1, 3, 64, 48)
            assert -1 <= one.min() < one.max() <= 1
            return (one - other).abs().mean().reshape(1, 1, 1, 1)

    stand_in = types.ModuleType("lpips")
    stand_in.LPIPS = lambda net, verbose: Distance()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", stand_in)
    one, other = picture(), 255 - picture()
    expected = np.abs(one.astype(float) - other).mean() / 127.5
    assert score.measure(one, other) == pytest.approx(expected, rel=1e-5)  # float32 sums of 9,216 values
    assert not score.higher_is_better
    _load_network.cache_clear()


def test_every_name_is_in_the_table_of_the_docstring() -> None:
    import dni_deploy.imaging.metrics.registry

    assert all(f"    {name} " in (dni_deploy.imaging.metrics.registry.__doc__ or "") for name in METRIC_NAMES)

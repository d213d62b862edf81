"""Metrics by name: their values, texts and directions; user functions and their failures."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.errors import UsageError
from dni_deploy.imaging.metrics.ciede2000 import ciede2000
from dni_deploy.imaging.metrics.haarpsi import haarpsi
from dni_deploy.imaging.metrics.registry import METRIC_NAMES, find_metric
from dni_deploy.imaging.metrics.ssim import ssim
from tests.support.noisy_ramp import make_noisy_ramp


def test_equal_frames_are_best_by_every_metric() -> None:
    one = make_noisy_ramp()
    assert haarpsi(one, one) == pytest.approx(1, abs=1e-9)
    assert ssim(one, one) == pytest.approx(1, abs=1e-9)
    assert ciede2000(one, one) == 0
    black = np.zeros((32, 32, 3), np.uint8)
    assert haarpsi(black, black) == 1


def test_more_noise_is_worse_by_every_metric() -> None:
    clean = make_noisy_ramp()
    noise = np.random.default_rng(3).normal(0, 1, clean.shape)
    for name in ("psnr", "ssim", "haarpsi", "ciede2000"):
        score = find_metric(name)
        values = [
            score.to_utility(score.measure(np.clip(clean + s * noise, 0, 255).astype(np.uint8), clean)) for s in (5, 15, 40)
        ]
        assert values == sorted(values, reverse=True), name


def test_metric_texts_and_directions() -> None:
    psnr, color = find_metric("psnr"), find_metric("ciede2000")
    assert psnr.format_value(27.314) == "27.31 dB"
    assert psnr.format_value(math.inf) == "identical"
    assert color.format_value(1.5) == "1.5000"
    assert color.format_value(math.inf) == "infinite"
    assert (psnr.to_utility(2.0), color.to_utility(2.0)) == (2.0, -2.0)


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user module in the current folder, which is not on the path of an installed command."""
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


@pytest.mark.usefixtures("user_module")
def test_a_user_function_can_be_a_metric() -> None:
    score, lower = find_metric("own_metrics:bright"), find_metric("min:own_metrics:bright")
    one = make_noisy_ramp()
    assert score.measure(one, one) == one.mean()
    assert (score.higher_is_better, lower.higher_is_better, lower.name) == (True, False, "own_metrics:bright")
    before = one.copy()
    find_metric("own_metrics:spoils").measure(one, one)
    np.testing.assert_array_equal(one, before)


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("name", "message"),
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
def test_invalid_metrics_are_usage_errors(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        find_metric(name).measure(make_noisy_ramp(), make_noisy_ramp())
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_every_metric_is_in_the_docstring_table() -> None:
    import dni_deploy.imaging.metrics.registry

    assert all(f"    {name} " in (dni_deploy.imaging.metrics.registry.__doc__ or "") for name in METRIC_NAMES)

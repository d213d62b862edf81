"""Figures of a midpoint, a loss barrier and a BatchNorm mismatch, against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.compatibility.midpoint import average_midpoints, measure_barrier, measure_batchnorm_mismatches, measure_midpoint


def test_midpoint_figures_equal_hand_computed_values() -> None:
    random = np.random.default_rng(0)
    ends = [random.standard_normal((1, 1, 64, 64)).astype(np.float32) for _ in range(2)]
    mean = (ends[0] + ends[1]) / 2
    exact = measure_midpoint("a - b", ends[0], mean, ends[1])
    assert (exact.error, exact.departure, exact.is_collapsed) == (0, 0, False)
    same = measure_midpoint("a - b", mean, mean, mean)
    assert (same.error, same.departure, same.contrast, same.is_collapsed) == (0, 0, pytest.approx(1), False)
    assert measure_midpoint("a - b", ends[0], np.zeros_like(mean), ends[1]).is_collapsed
    assert measure_midpoint("a - b", mean, 3 * mean, mean).is_collapsed
    assert measure_midpoint("a - b", mean, mean + 0.1 * mean.std(), mean).is_outside_ends
    assert measure_midpoint("a - b", mean, np.full_like(mean, np.nan), mean).is_collapsed
    assert measure_midpoint("a - b", ends[0], mean + 0.5, ends[1], span=2).brightness == pytest.approx(
        0.25, abs=1e-6
    )  # float32 sums


def test_loss_barrier_equals_hand_computed_values() -> None:
    clean = np.full((1, 3, 4, 4), 0.25, np.float32)
    outputs = (clean + np.float32(0.1), clean + np.float32(0.2), clean - np.float32(0.1))
    barrier = measure_barrier("a - b", "x", outputs, clean, -1.0, 1.0)  # a range of 2: an error of 0.1 is 0.05 of it
    assert barrier.first == pytest.approx(0.0025, rel=1e-5)  # float32 inputs
    assert barrier.barrier == pytest.approx(0.01 - 0.0025, rel=1e-5)
    assert barrier.decibels == barrier.beyond == pytest.approx(20 * np.log10(2), abs=1e-4)
    enlarged = measure_barrier("a - b", "x", outputs, clean, 0.0, 1.0, clean[..., ::2, ::2] + np.float32(0.1))
    assert (barrier.input, enlarged.input) == (None, pytest.approx(0.01, rel=1e-5))
    assert measure_barrier("a - b", "x", outputs, clean, 0.0, 1.0, clean[:, :1]).input is None
    assert barrier.pixel_blend == pytest.approx(0, abs=1e-12)  # the two errors cancel
    assert measure_barrier("a - b", "x", (clean, clean, clean), clean, 0, 1).decibels == 0


def test_batchnorm_mismatch_against_float64() -> None:
    """A single BatchNorm whose members fit their statistics, and whose midpoint has a quarter of the stored variance."""
    ones, zeros = np.ones(4), np.zeros(4)
    ends = ({"n.running_mean": zeros, "n.running_var": ones}, {"n.running_mean": 2 * ones, "n.running_var": 3 * ones})
    measured = ({"n": (zeros, ones)}, {"n": (2 * ones, 3 * ones)})
    middle = {"n": (3 * ones, ones / 2)}
    blend = {"n.running_mean": ones, "n.running_var": 2 * ones}
    [row] = measure_batchnorm_mismatches("a - b", (ends[0], blend, ends[1]), (measured[0], middle, measured[1]))
    assert row.variance == pytest.approx(0.25, rel=1e-4)  # EPSILON over 2
    assert row.mean == pytest.approx(2 / np.sqrt(2), rel=1e-4)
    assert row.has_drifted
    estimated = {"n.running_mean": 3 * ones, "n.running_var": ones / 2}
    [row] = measure_batchnorm_mismatches("a - b", (ends[0], estimated, ends[1]), (measured[0], middle, measured[1]))
    assert row.variance == pytest.approx(1, rel=1e-12)  # the same float64 numbers, divided by each other
    assert (row.mean, row.has_drifted) == (0, False)


def test_several_test_images_are_averaged() -> None:
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    rows = [measure_midpoint("a - b", x, x + shift, x) for shift in (0.1, 0.3)]
    average = average_midpoints(rows)
    assert average.brightness == pytest.approx(0.2, abs=1e-6)  # float32 sums
    assert average.error == pytest.approx((rows[0].error + rows[1].error) / 2, rel=1e-12)
    assert average_midpoints(rows[:1]) is rows[0]
    broken = measure_midpoint("a - b", x, x * np.float32("nan"), x)
    assert not average_midpoints([rows[0], broken]).finite

"""Perceptual slider: position and alpha are inverse, and equal steps are equal measured distances."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dni_deploy.bundle.slider import MIN_STEP_FRACTION, PerceptualSlider
from dni_deploy.errors import BundleError, MismatchError, UsageError

DISTANCES = st.lists(st.floats(0, 1e3, allow_subnormal=False), min_size=1, max_size=40).filter(lambda parts: sum(parts) > 1e-3)


# On a busy machine drawing the examples is slow, too.
slow_settings = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make_slider(distances: list[float]) -> PerceptualSlider:
    return PerceptualSlider.from_distances([step / len(distances) for step in range(len(distances) + 1)], distances)


@slow_settings
@given(DISTANCES, st.floats(0, 1))
def test_position_and_alpha_are_inverse(distances: list[float], position: float) -> None:
    slider = make_slider(distances)
    # A position is a sum of up to 40 parts and known to 2^-53; the steepest piece (MIN_STEP_FRACTION) magnifies that by at most 101 * 40.
    assert slider.position_at(slider.alpha_at(position)) == pytest.approx(position, abs=1e-12)
    assert slider.alpha_at(slider.position_at(position)) == pytest.approx(position, abs=1e-12)


@slow_settings
@given(DISTANCES, st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True))
def test_alpha_rises_with_the_position(distances: list[float], positions: list[float]) -> None:
    slider, (low, high) = make_slider(distances), sorted(positions)
    assert slider.alpha_at(low) <= slider.alpha_at(high)
    assert slider.alpha_at(low) >= 0
    assert slider.alpha_at(high) <= 1
    if high - low > 1e-9:  # below that, float64 may give both the same number
        assert slider.alpha_at(low) < slider.alpha_at(high)


@slow_settings
@given(DISTANCES)
def test_ends_and_points_are_exact(distances: list[float]) -> None:
    slider = make_slider(distances)
    assert (slider.alpha_at(0), slider.alpha_at(1), slider.position_at(0), slider.position_at(1)) == (0, 1, 0, 1)
    for position, alpha in slider.points:
        assert slider.alpha_at(position) == alpha
        assert slider.position_at(alpha) == position


@slow_settings
@given(DISTANCES)
def test_equal_steps_are_equal_distances(distances: list[float]) -> None:
    """The cumulative distance at each slider point, as a fraction of the total, is its position, up to MIN_STEP_FRACTION."""
    slider = make_slider(distances)
    fractions = np.concatenate([[0], np.cumsum(distances)]) / sum(distances)
    np.testing.assert_allclose([point[0] for point in slider.points], fractions, atol=MIN_STEP_FRACTION)


def test_the_slider_moves_where_the_output_does_not_change() -> None:
    slider = make_slider([0.0, 1.0, 0.0])
    assert all(
        after[0] - before[0] >= MIN_STEP_FRACTION / 3 / (1 + MIN_STEP_FRACTION) * (1 - 1e-12)
        for before, after in pairwise(slider.points)
    )
    with pytest.raises(MismatchError, match="the same at every alpha"):
        make_slider([0.0, 0.0])


@pytest.mark.parametrize("value", [-1e-9, 1.5, math.nan, math.inf])
def test_positions_beyond_the_ends_are_refused(value: float) -> None:
    with pytest.raises(UsageError, match="position is a number from 0 to 1"):
        make_slider([1.0]).alpha_at(value)
    with pytest.raises(UsageError, match="alpha is a number from 0 to 1"):
        make_slider([1.0]).position_at(value)


@pytest.mark.parametrize(
    "points",
    [
        ((0.0, 0.0),),
        ((0.0, 0.1), (1.0, 1.0)),
        ((0.0, 0.0), (1.0, 0.9)),
        ((0.0, 0.0), (0.5, 0.5), (0.5, 0.6), (1.0, 1.0)),
        ((0.0, 0.0), (0.4, 0.6), (0.5, 0.5), (1.0, 1.0)),
    ],
)
def test_points_that_do_not_increase_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(BundleError, match="slider's points"):
        PerceptualSlider(points)

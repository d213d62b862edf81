"""Even slider: both ways are one line, and its steps are as even as what it was made from."""

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


# A machine with other work on it is slow in drawing examples, too.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def slider(distances: list[float]) -> PerceptualSlider:
    return PerceptualSlider.from_distances([step / len(distances) for step in range(len(distances) + 1)], distances)


@calm
@given(DISTANCES, st.floats(0, 1))
def test_position_and_alpha_are_inverse(distances: list[float], at: float) -> None:
    made = slider(distances)
    # A position is a sum of up to 40 parts and known to 2^-53; the steepest piece (MIN_STEP_FRACTION) magnifies that by at most 101 * 40.
    assert made.position_at(made.alpha_at(at)) == pytest.approx(at, abs=1e-12)
    assert made.alpha_at(made.position_at(at)) == pytest.approx(at, abs=1e-12)


@calm
@given(DISTANCES, st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True))
def test_alpha_rises_with_the_position(distances: list[float], two: list[float]) -> None:
    made, (low, high) = slider(distances), sorted(two)
    assert made.alpha_at(low) <= made.alpha_at(high)
    assert made.alpha_at(low) >= 0
    assert made.alpha_at(high) <= 1
    if high - low > 1e-9:  # below that, float64 may give both the same number
        assert made.alpha_at(low) < made.alpha_at(high)


@calm
@given(DISTANCES)
def test_ends_and_points_are_exact(distances: list[float]) -> None:
    made = slider(distances)
    assert (made.alpha_at(0), made.alpha_at(1), made.position_at(0), made.position_at(1)) == (0, 1, 0, 1)
    for position, alpha in made.points:
        assert made.alpha_at(position) == alpha
        assert made.position_at(alpha) == position


@calm
@given(DISTANCES)
def test_equal_steps_are_equal_distances(distances: list[float]) -> None:
    """The distance gone at each knot, as a part of the whole, is its position, but for what MIN_STEP_FRACTION gives away."""
    made = slider(distances)
    gone = np.concatenate([[0], np.cumsum(distances)]) / sum(distances)
    np.testing.assert_allclose([knot[0] for knot in made.points], gone, atol=MIN_STEP_FRACTION)


def test_where_nothing_moves_the_slider_still_does() -> None:
    made = slider([0.0, 1.0, 0.0])
    assert all(
        after[0] - before[0] >= MIN_STEP_FRACTION / 3 / (1 + MIN_STEP_FRACTION) * (1 - 1e-12)
        for before, after in pairwise(made.points)
    )
    with pytest.raises(MismatchError, match="the same at every alpha"):
        slider([0.0, 0.0])


@pytest.mark.parametrize("beyond", [-1e-9, 1.5, math.nan, math.inf])
def test_positions_beyond_the_ends_are_refused(beyond: float) -> None:
    with pytest.raises(UsageError, match="position is a number from 0 to 1"):
        slider([1.0]).alpha_at(beyond)
    with pytest.raises(UsageError, match="alpha is a number from 0 to 1"):
        slider([1.0]).position_at(beyond)


@pytest.mark.parametrize(
    "knots",
    [
        ((0.0, 0.0),),
        ((0.0, 0.1), (1.0, 1.0)),
        ((0.0, 0.0), (1.0, 0.9)),
        ((0.0, 0.0), (0.5, 0.5), (0.5, 0.6), (1.0, 1.0)),
        ((0.0, 0.0), (0.4, 0.6), (0.5, 0.5), (1.0, 1.0)),
    ],
)
def test_points_that_do_not_rise_are_refused(knots: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(BundleError, match="slider's points"):
        PerceptualSlider(knots)

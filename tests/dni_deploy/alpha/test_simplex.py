"""Points on the simplex: no operation leaves it or changes the sum of the coefficients."""

from __future__ import annotations

import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy.alpha.coefficients import SUM_TOLERANCE, Coefficients
from dni_deploy.alpha.simplex import interpolate, interpolate_values, with_coefficient
from dni_deploy.errors import CoefficientsError

TWO, THREE = ("psnr", "gan"), ("a", "b", "c")
ULP = 2.0**-52
"""A coefficient in [0.5, 1) is rounded by a quarter of it, and by one step more where the coefficients are divided first."""
STORED = 2.0**-53
"""The largest coefficient absorbs the rounding of the sum; storing it rounds once more."""

CORRECTION = 5 * STORED
"""Of the sum: a coefficient has three roundings of at most a part of 2^-53 of it, and two more in the ends; coefficients sum to 1."""

points = st.lists(st.integers(0, 10**6), min_size=2, max_size=16).filter(any).map(lambda w: [x / sum(w) for x in w])


@given(points, points, st.floats(0, 1))
def test_interpolation_stays_between_its_ends(start: list[float], end: list[float], fraction: float) -> None:
    count = min(len(start), len(end))
    first_point = (
        [value / math.fsum(start[:count]) for value in start[:count]] if any(start[:count]) else [1.0] + [0.0] * (count - 1)
    )
    second_point = (
        [value / math.fsum(end[:count]) for value in end[:count]] if any(end[:count]) else [1.0] + [0.0] * (count - 1)
    )
    values = interpolate_values(first_point, second_point, fraction)
    assert abs(math.fsum(values) - 1) <= STORED or fraction in (0, 1)
    assert all(0 <= value <= 1 for value in values)
    # The largest one absorbs the rounding of the sum, and may be below others of its size then; all others lie exactly between
    # their ends.
    moved = [
        value
        for value, *bounds in zip(values, first_point, second_point, strict=True)
        if not min(bounds) <= value <= max(bounds)
    ]
    assert len(moved) <= 1
    assert all(value >= max(values) - CORRECTION for value in moved)
    assert interpolate_values(first_point, second_point, 0.0) == tuple(first_point)
    assert interpolate_values(first_point, second_point, 1.0) == tuple(second_point)
    assert interpolate_values(first_point, first_point, fraction) == pytest.approx(first_point, abs=ULP)


@given(st.floats(0, 1), st.sampled_from([-1, 1]), st.sampled_from([-1, 1]))
def test_interpolation_of_barely_valid_points_is_valid(fraction: float, first: int, second: int) -> None:
    """The ends are as far off as parse accepts; every point between them has to be accepted, too."""
    first_point, second_point = make_barely_valid(0.5, first), make_barely_valid(0.1, second)
    Coefficients.parse(interpolate(first_point, second_point, fraction), TWO)


@cache
def make_barely_valid(value: float, sign: int) -> Coefficients:
    """Returns coefficients whose sum is as far from 1 as parse accepts."""
    other = 1 - value + sign * SUM_TOLERANCE * 1.001
    while abs(math.fsum([value, other]) - 1) > SUM_TOLERANCE:
        other = 1 - value + (other - 1 + value) * 0.9999999
    for _ in range(10_000):
        next_value = math.nextafter(other, 1 + sign)
        if abs(math.fsum([value, next_value]) - 1) > SUM_TOLERANCE:
            break
        other = next_value
    return Coefficients.parse([value, other], TWO)


def test_changing_one_coefficient_keeps_the_others_proportions() -> None:
    point = Coefficients.parse([0.5, 0.3, 0.2], THREE)
    changed = with_coefficient(point, "a", 0.0)
    assert changed.values == pytest.approx((0.0, 0.6, 0.4), abs=ULP)
    assert with_coefficient(Coefficients.one_hot("a", THREE), "a", 0.4).values == pytest.approx((0.4, 0.3, 0.3), abs=ULP)
    assert with_coefficient(Coefficients.one_hot("psnr", TWO), "gan", 0.25).values == (0.75, 0.25)
    assert with_coefficient(point, "b", 1.0).values == (0.0, 1.0, 0.0)
    for member, value in [("x", 0.5), ("a", math.nan), ("a", 1.5), ("a", -0.1), ("a", math.inf)]:
        with pytest.raises(CoefficientsError):
            with_coefficient(point, member, value)


@given(points, st.floats(0, 1), st.integers(0, 15))
def test_any_coefficient_of_any_point_can_be_set(values: list[float], value: float, index: int) -> None:
    names = tuple(f"m{number}" for number in range(len(values)))
    member = names[index % len(names)]
    changed = with_coefficient(Coefficients.parse(values, names), member, value)
    assert changed.values[index % len(names)] == pytest.approx(value, abs=2 * ULP)
    assert abs(math.fsum(changed.values) - 1) <= ULP

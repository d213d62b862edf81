"""Points on the simplex: no step leaves it, and every sum stays what it was."""

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
"""A share in [0.5, 1) is rounded by a quarter of it, and one step more where the shares are divided first."""
STORED = 2.0**-53
"""The largest share takes the rounding of the sum; storing it rounds once more."""

points = st.lists(st.integers(0, 10**6), min_size=2, max_size=16).filter(any).map(lambda w: [x / sum(w) for x in w])


@given(points, points, st.floats(0, 1))
def test_a_way_stays_between_its_ends(start: list[float], end: list[float], way: float) -> None:
    count = min(len(start), len(end))
    one = [share / math.fsum(start[:count]) for share in start[:count]] if any(start[:count]) else [1.0] + [0.0] * (count - 1)
    two = [share / math.fsum(end[:count]) for share in end[:count]] if any(end[:count]) else [1.0] + [0.0] * (count - 1)
    made = interpolate_values(one, two, way)
    assert abs(math.fsum(made) - 1) <= STORED or way in (0, 1)
    assert all(0 <= share <= 1 for share in made)
    largest = made.index(max(made))  # takes the sum's rounding; all others lie between their ends, to the last bit
    for place, ends in enumerate(zip(one, two, strict=True)):
        assert place == largest or min(ends) <= made[place] <= max(ends)
    assert interpolate_values(one, two, 0.0) == tuple(one)
    assert interpolate_values(one, two, 1.0) == tuple(two)
    assert interpolate_values(one, one, way) == pytest.approx(one, abs=ULP)


@given(st.floats(0, 1), st.sampled_from([-1, 1]), st.sampled_from([-1, 1]))
def test_the_tolerance_that_was_used_up_stays_good(way: float, first: int, second: int) -> None:
    """Ends as far off as parse takes them: what lies between has to pass parse, too."""
    one, two = barely(0.5, first), barely(0.1, second)
    Coefficients.parse(interpolate(one, two, way), TWO)


@cache
def barely(share: float, sign: int) -> Coefficients:
    """The farthest that the sum may be off."""
    other = 1 - share + sign * SUM_TOLERANCE * 1.001
    while abs(math.fsum([share, other]) - 1) > SUM_TOLERANCE:
        other = 1 - share + (other - 1 + share) * 0.9999999
    for _ in range(10_000):
        farther = math.nextafter(other, 1 + sign)
        if abs(math.fsum([share, farther]) - 1) > SUM_TOLERANCE:
            break
        other = farther
    return Coefficients.parse([share, other], TWO)


def test_one_share_moves_and_the_others_keep_their_proportions() -> None:
    point = Coefficients.parse([0.5, 0.3, 0.2], THREE)
    moved = with_coefficient(point, "a", 0.0)
    assert moved.values == pytest.approx((0.0, 0.6, 0.4), abs=ULP)
    assert with_coefficient(Coefficients.one_hot("a", THREE), "a", 0.4).values == pytest.approx((0.4, 0.3, 0.3), abs=ULP)
    assert with_coefficient(Coefficients.one_hot("psnr", TWO), "gan", 0.25).values == (0.75, 0.25)
    assert with_coefficient(point, "b", 1.0).values == (0.0, 1.0, 0.0)
    for member, share in [("x", 0.5), ("a", math.nan), ("a", 1.5), ("a", -0.1), ("a", math.inf)]:
        with pytest.raises(CoefficientsError):
            with_coefficient(point, member, share)


@given(points, st.floats(0, 1), st.integers(0, 15))
def test_any_share_of_any_point(shares: list[float], share: float, place: int) -> None:
    names = tuple(f"m{index}" for index in range(len(shares)))
    member = names[place % len(names)]
    moved = with_coefficient(Coefficients.parse(shares, names), member, share)
    assert moved.values[place % len(names)] == pytest.approx(share, abs=2 * ULP)
    assert abs(math.fsum(moved.values) - 1) <= ULP

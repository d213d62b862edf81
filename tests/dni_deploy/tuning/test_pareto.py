"""Pareto: exactly the rows that none beats, and the one nearest to the best of both."""

from __future__ import annotations

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dni_deploy.tuning.pareto import find_knee_point, find_pareto_front

# A machine with other work on it is slow in drawing examples, too.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ROWS = st.integers(1, 3).flatmap(lambda width: st.lists(st.tuples(*[st.integers(-3, 3)] * width), min_size=1, max_size=12))


@calm
@given(ROWS)
def test_the_front_is_what_none_beats(rows: list[tuple[int, ...]]) -> None:
    kept = find_pareto_front(rows)
    chosen = [rows[index] for index in kept]
    assert len(set(chosen)) == len(chosen)
    for index, row in enumerate(rows):
        beaten = [other for other in rows if other != row and all(a >= b for a, b in zip(other, row, strict=True))]
        first = rows.index(row) == index
        assert (index in kept) == (not beaten and first)


def test_the_knee() -> None:
    assert find_knee_point([(0, 10), (8, 8), (10, 0)]) == 1
    assert find_knee_point([(0, 1000), (0.8, 800), (1, 0)]) == 1  # the scale of a measure does not matter
    assert find_knee_point([(3.0, 3.0)]) == 0
    assert find_knee_point([(math.inf, 1.0), (20.0, 1.0)]) == 0

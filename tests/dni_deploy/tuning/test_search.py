"""Simplex search stays on the simplex and within the budget, and finds the maximum wherever it lies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dni_deploy.tuning.search import (
    SHARES_PER_UNIT,
    BudgetExhaustedError,
    GridPoint,
    Objective,
    enumerate_grid,
    find_knee_point,
    find_pareto_front,
    neighbors,
    refine_best_point,
    round_to_grid,
    survey_simplex,
    to_coefficients,
)

# A busy machine is slow in generating examples, too.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

MEMBERS = st.integers(2, 6)


@unhurried
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda parts: sum(parts) > 1e-6))
def test_rounding_stays_on_the_simplex(parts: list[float]) -> None:
    point = round_to_grid(parts)
    assert sum(point) == SHARES_PER_UNIT
    assert min(point) >= 0
    scaled = np.array(parts) / sum(parts) * SHARES_PER_UNIT
    assert np.abs(np.array(point) - scaled).max() < 1 + 1e-6
    assert math.fsum(to_coefficients(point)) == pytest.approx(1, abs=1e-12)
    assert round_to_grid([7 * part for part in point]) == point  # the scale does not matter


@unhurried
@given(MEMBERS, st.integers(1, 5))
def test_grid_has_every_point(members: int, steps: int) -> None:
    points = list(enumerate_grid(members, steps))
    assert len(set(points)) == math.comb(steps + members - 1, steps)
    assert all(sum(point) == SHARES_PER_UNIT for point in points)
    assert {tuple(SHARES_PER_UNIT * (index == place) for index in range(members)) for place in range(members)} <= set(points)


@unhurried
@given(MEMBERS.flatmap(lambda members: st.lists(st.integers(0, 50), min_size=members, max_size=members)), st.integers(1, 300))
def test_neighbors_stay_on_the_simplex(parts: list[int], step: int) -> None:
    point = round_to_grid(np.array(parts, float) + 1)
    for neighbor in neighbors(point, step):
        assert sum(neighbor) == SHARES_PER_UNIT
        assert min(neighbor) >= 0
        assert sum(a != b for a, b in zip(point, neighbor, strict=True)) == 2


def find(target: np.ndarray, budget: int, skew: float = 0.0) -> tuple[GridPoint, Objective]:
    """Searches a quadratic objective around the target, rotated and stretched by `skew`."""
    members = len(target)
    calls: list[tuple[float, ...]] = []
    turned = np.eye(members) + skew * np.random.default_rng(0).normal(size=(members, members))

    def measure(point: tuple[float, ...]) -> tuple[float, ...]:
        assert math.fsum(point) == pytest.approx(1, abs=1e-12)
        assert min(point) >= 0
        calls.append(point)
        return (-float(np.sum((turned @ (np.array(point) - target)) ** 2)),)

    objective = Objective(measure, budget)
    survey_simplex(objective, members, max(members, budget // 3))
    best = refine_best_point(objective, members, lambda values: values[0], budget - len(objective.values_by_point))
    assert len(calls) == len(set(calls)) == len(objective.values_by_point) <= budget
    assert objective.budget == budget
    return best, objective


@settings(unhurried, max_examples=15)
@given(st.integers(2, 4).flatmap(lambda members: st.lists(st.floats(0, 1), min_size=members, max_size=members)))
def test_search_finds_the_top_of_a_bowl_anywhere_on_the_simplex(parts: list[float]) -> None:
    target = np.array(parts) + 1e-3
    target /= target.sum()
    best, _ = find(target, 32 if len(parts) == 2 else 24 * (len(parts) - 1), skew=0.3)
    # 0.02: the last step is 0.01, and the objective is up to twice as flat in one direction as in another
    assert np.abs(np.array(best) / SHARES_PER_UNIT - target).max() <= 0.02


@pytest.mark.parametrize("target", [(1.4, -0.4), (1.3, -0.1, -0.2), (0.6, 0.6, -0.2)])
def test_an_optimum_outside_the_simplex_is_found_at_its_border(target: tuple[float, ...]) -> None:
    best, _ = find(np.array(target), 40)
    expected = {2: (1.0, 0.0), 3: (1.0, 0.0, 0.0) if target[0] > 1 else (0.5, 0.5, 0.0)}[len(target)]
    assert np.abs(np.array(best) / SHARES_PER_UNIT - expected).max() <= 0.01


def test_two_members_begin_with_the_papers_sweep() -> None:
    objective = Objective(lambda point: (-((point[0] - 0.333) ** 2),), 32)
    survey_simplex(objective, 2, 22)
    refine_best_point(objective, 2, lambda values: values[0], 11)
    assert list(objective.values_by_point)[:21] == [(50 * step, SHARES_PER_UNIT - 50 * step) for step in range(21)]
    assert abs(objective.best_point(lambda values: values[0])[0] - 333) <= 5


def test_a_small_budget_evaluates_the_members_first() -> None:
    objective = Objective(lambda point: (point[2],), 3)
    survey_simplex(objective, 3, 3)
    assert set(objective.values_by_point) == {(1000, 0, 0), (0, 1000, 0), (0, 0, 1000)}
    assert refine_best_point(objective, 3, lambda values: values[0], 0) == (0, 0, 1000)
    with pytest.raises(BudgetExhaustedError):
        objective((500, 500, 0))
    assert objective((0, 0, 1000)) == (1.0,)  # a repeated evaluation costs nothing


def test_infinite_values_do_not_stop_the_search() -> None:
    """Identical images have an infinite PSNR."""
    objective = Objective(lambda point: (math.inf if point[0] == 0.5 else -abs(point[0] - 0.5),), 40)
    survey_simplex(objective, 3, 15)
    assert refine_best_point(objective, 3, lambda values: values[0], 25)[0] == 500


def test_search_ends_on_a_constant_objective() -> None:
    objective = Objective(lambda point: (0.0,), 200)
    survey_simplex(objective, 3, 15)
    refine_best_point(objective, 3, lambda values: values[0], 185)
    assert len(objective.values_by_point) < 100


# A busy machine is slow in generating examples, too.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ROWS = st.integers(1, 3).flatmap(lambda width: st.lists(st.tuples(*[st.integers(-3, 3)] * width), min_size=1, max_size=12))


@unhurried
@given(ROWS)
def test_pareto_front_holds_the_undominated_points(rows: list[tuple[int, ...]]) -> None:
    front = find_pareto_front(rows)
    chosen = [rows[index] for index in front]
    assert len(set(chosen)) == len(chosen)
    for index, row in enumerate(rows):
        dominating = [other for other in rows if other != row and all(a >= b for a, b in zip(other, row, strict=True))]
        first = rows.index(row) == index
        assert (index in front) == (not dominating and first)


def test_knee_point_ignores_metric_scale() -> None:
    assert find_knee_point([(0, 10), (8, 8), (10, 0)]) == 1
    assert find_knee_point([(0, 1000), (0.8, 800), (1, 0)]) == 1  # the scale of a metric does not matter
    assert find_knee_point([(3.0, 3.0)]) == 0
    assert find_knee_point([(math.inf, 1.0), (20.0, 1.0)]) == 0

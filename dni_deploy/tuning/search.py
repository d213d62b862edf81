"""Search for the best blend in few evaluations, each of which costs a refit and a frame; the best of several metrics.

Two members: evenly spaced alphas (the paper's 0.05), then Brent's bounded search around the best of them, by SciPy.
More: a coarse grid over the simplex, then a pattern search from its best point that first tries the top of a quadratic
fitted to the evaluations nearby (Custodio, Rocha, Vicente, "Incorporating minimum Frobenius norm models in direct search",
2010).
SciPy's own for linear constraints, COBYQA, may step off the simplex and does not begin with a global survey:
docs/design/tune.md has the count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

GridPoint = tuple[int, ...]
"""Coefficients in thousandths, in family order, summing to SHARES_PER_UNIT: what is printed is exactly what was evaluated."""

Scalarization = Callable[[tuple[float, ...]], float]
"""What a search maximizes: one number made of the utilities of the metrics."""

SHARES_PER_UNIT = 1000

SWEEP_STEPS = 20
"""Of the sweep over two members: alpha in steps of 0.05, as in section 3.2 of the paper."""

MIN_SEARCH_STEP = 10
"""The pattern search ends below this step, 0.01: on 21 surfaces of denoisers, going beyond steps of 0.05 gained at most 0.003
dB."""

BRENT_TOLERANCE = 5
"""Of Brent's search, in thousandths."""


class BudgetExhaustedError(Exception):
    """The budget of evaluations is used up, or nothing can be better."""


class Objective:
    """The function to maximize, evaluated once at every point.

    Attributes:
        budget: Number of points that may be evaluated.
        values_by_point: What has been evaluated, in order.
    """

    def __init__(self, measure: Callable[[tuple[float, ...]], tuple[float, ...]], budget: int) -> None:
        """Keeps the arguments.

        Args:
            measure: Coefficients to one number for each metric, each to be made as large as possible.
            budget: Number of points that may be evaluated.
        """
        self._measure = measure
        self.budget = budget
        self.values_by_point: dict[GridPoint, tuple[float, ...]] = {}

    def __call__(self, point: GridPoint) -> tuple[float, ...]:
        """Evaluates a point, or returns what it had.

        Raises:
            BudgetExhaustedError: The point is new and the budget is used up.
        """
        if point not in self.values_by_point:
            if len(self.values_by_point) >= self.budget:
                raise BudgetExhaustedError
            self.values_by_point[point] = self._measure(to_coefficients(point))
        return self.values_by_point[point]

    def best_point(self, scalarize: Scalarization) -> GridPoint:
        """Returns the evaluated point at which `scalarize` is largest; of equal ones the first."""
        return max(self.values_by_point, key=lambda point: scalarize(self.values_by_point[point]))


def to_coefficients(point: GridPoint) -> tuple[float, ...]:
    """Converts a point to floats, each the nearest one to its decimal fraction."""
    return tuple(part / SHARES_PER_UNIT for part in point)


def survey_simplex(objective: Objective, members: int, max_evaluations: int) -> None:
    """Evaluates evenly spaced points, members themselves included.

    Args:
        objective: The function.
        members: Number of members.
        max_evaluations: Number of points at most; the members are always evaluated.
    """
    if members == 2:
        steps = max(1, min(SWEEP_STEPS, max_evaluations - 1))
        points = [round_to_grid((step / steps, 1 - step / steps)) for step in range(steps + 1)]
    else:
        steps = max((k for k in range(1, 5) if math.comb(k + members - 1, k) <= max_evaluations), default=1)
        points = sorted(enumerate_grid(members, steps), key=lambda point: -max(point))  # the members first
    for point in points:
        objective(point)


def enumerate_grid(members: int, steps: int) -> Iterator[GridPoint]:
    """Yields all points whose coefficients are multiples of 1/steps."""
    for bars in combinations(range(steps + members - 1), members - 1):
        counts = np.diff([-1, *bars, steps + members - 1]) - 1
        yield round_to_grid(counts / steps)


def round_to_grid(point: Sequence[float] | NDArray[np.float64]) -> GridPoint:
    """Finds the nearest grid point: rounds down, and gives what is missing to the largest remainders.

    Args:
        point: Coefficients in any unit; negative ones count as 0.
    """
    scaled = np.maximum(np.asarray(point, np.float64), 0)
    scaled = scaled / scaled.sum() * SHARES_PER_UNIT
    whole = np.floor(scaled + 1e-9).astype(int)
    for index in np.argsort(whole - scaled, kind="stable")[: SHARES_PER_UNIT - int(whole.sum())]:
        whole[index] += 1
    return tuple(int(part) for part in whole)


def refine_best_point(objective: Objective, members: int, scalarize: Scalarization, max_evaluations: int) -> GridPoint:
    """Searches on from the best point of the survey.

    Args:
        objective: The function.
        members: Number of members.
        scalarize: What to maximize.
        max_evaluations: Number of further evaluations at most.

    Returns:
        The best point of all.
    """
    budget = objective.budget
    objective.budget = min(budget, len(objective.values_by_point) + max_evaluations)
    try:
        _search_interval(objective, scalarize) if members == 2 else _search_pattern(objective, scalarize)
    except BudgetExhaustedError:
        pass
    finally:
        objective.budget = budget
    return objective.best_point(scalarize)


def _search_interval(objective: Objective, scalarize: Scalarization) -> None:
    """Runs Brent's search between the neighbors of the best alpha."""
    best = objective.best_point(scalarize)
    if scalarize(objective.values_by_point[best]) == math.inf:  # identical images: nothing is better
        return
    alphas = sorted(point[0] for point in objective.values_by_point)
    place = alphas.index(best[0])
    low, high = alphas[max(place - 1, 0)], alphas[min(place + 1, len(alphas) - 1)]

    def negated_value(alpha: float) -> float:
        part = round(alpha)
        value = scalarize(objective((part, SHARES_PER_UNIT - part)))
        if value == math.inf:
            raise BudgetExhaustedError
        return -value

    minimize_scalar(negated_value, bounds=(low, high), method="bounded", options={"xatol": BRENT_TOLERANCE})


def _search_pattern(objective: Objective, scalarize: Scalarization) -> None:
    gaps = [
        max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in combinations(list(objective.values_by_point)[:64], 2)
    ]
    step = max(min(gaps) // 2, MIN_SEARCH_STEP)
    while step >= MIN_SEARCH_STEP:
        center = objective.best_point(scalarize)
        best = scalarize(objective.values_by_point[center])
        model = _QuadraticModel(objective, scalarize, center, 2.5 * step)
        top = model.find_maximum(2 * step)
        if top not in objective.values_by_point and scalarize(objective(top)) > best:
            continue
        if not any(scalarize(objective(point)) > best for point in model.sort_by_value(neighbors(center, step))):
            step //= 2


def neighbors(point: GridPoint, step: int) -> list[GridPoint]:
    """Lists the points that move up to `step` from one member to another; they span all directions of the simplex."""
    points = []
    for source, target in permutations(range(len(point)), 2):
        amount = min(step, point[source])
        if amount:
            neighbor = list(point)
            neighbor[source] -= amount
            neighbor[target] += amount
            points.append(tuple(neighbor))
    return points


class _QuadraticModel:
    """A quadratic through the evaluations near a point: of all least-squares fits the one with the smallest curvature."""

    def __init__(self, objective: Objective, scalarize: Scalarization, center: GridPoint, radius: float) -> None:
        near = [
            (point, value)
            for point, values in objective.values_by_point.items()
            if max(abs(a - b) for a, b in zip(point, center, strict=True)) <= radius
            and math.isfinite(value := scalarize(values))
        ]
        self._center, self._radius = np.array(center, np.float64), radius
        rows = np.array([self._compute_terms(np.array(point, np.float64)) for point, _ in near])
        values = np.array([value for _, value in near])
        self._weights = (
            np.linalg.lstsq(rows, values, rcond=None)[0] if near else np.zeros(len(self._compute_terms(self._center)))
        )

    def _compute_terms(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        offset = (point - self._center)[:-1] / self._radius  # the last coefficient follows from the others
        upper = np.triu_indices(len(offset))
        return np.concatenate([[1.0], offset, np.outer(offset, offset)[upper]])

    def __call__(self, point: NDArray[np.float64]) -> float:
        return float(self._compute_terms(point) @ self._weights)

    def sort_by_value(self, points: list[GridPoint]) -> list[GridPoint]:
        return sorted(points, key=lambda point: -self(np.array(point, np.float64)))

    def find_maximum(self, radius: float) -> GridPoint:
        """Finds the largest value on the simplex within the radius of the center, by SLSQP."""
        bounds = [(max(part - radius, 0), min(part + radius, SHARES_PER_UNIT)) for part in self._center]
        result = minimize(
            lambda point: -self(point),
            self._center,
            bounds=bounds,
            constraints={"type": "eq", "fun": lambda point: point.sum() / SHARES_PER_UNIT - 1},
            method="SLSQP",
        )
        is_usable = np.isfinite(result.x).all() and result.x.sum() > 0
        return round_to_grid(result.x if is_usable else self._center)


def find_pareto_front(values: Sequence[Sequence[float]]) -> list[int]:
    """Finds the rows that no other row equals or exceeds in every metric while exceeding it in one; more is better.

    Args:
        values: A row for each evaluation, a number for each metric.

    Returns:
        Their indices in ascending order; of equal rows the first.
    """
    return [
        index
        for index, row in enumerate(values)
        if not any(_dominates(other, row) or (place < index and list(other) == list(row)) for place, other in enumerate(values))
    ]


def _dominates(other: Sequence[float], row: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(other, row, strict=True)) and any(a > b for a, b in zip(other, row, strict=True))


def find_knee_point(values: Sequence[Sequence[float]]) -> int:
    """Finds the row of a front that is nearest to the best of every metric, each scaled to 0..1 over the front.

    Args:
        values: The rows of the front, a number for each metric; more is better.

    Returns:
        Its index.

    Source: the compromise solution of Zeleny, 1973, under the Euclidean distance.
    """
    columns = list(zip(*values, strict=True))
    spans = [(min(column), max(column)) for column in columns]

    def distance_to_ideal(row: Sequence[float]) -> float:
        distances = []
        for value, (low, high) in zip(row, spans, strict=True):
            if math.isinf(high - low):  # identical images have an infinite PSNR
                distances.append(float(value != high))
            else:
                distances.append((high - value) / (high - low) if high > low else 0.0)
        return math.hypot(*distances)

    return min(range(len(values)), key=lambda index: distance_to_ideal(values[index]))

"""Simplex search: the best blend in few evaluations, each of which costs a refit and a frame.

Two members: evenly spaced alphas (the paper's 0.05), then Brent's bounded search around the best of them, by SciPy.
More: a coarse lattice over the simplex, then a pattern search from its best point that first tries the top of a quadratic fitted to
what is known nearby (Custodio, Rocha, Vicente, "Incorporating minimum Frobenius norm models in direct search", 2010).
SciPy's own for linear constraints, COBYQA, may step off the simplex and does not begin with a global look: docs/tune.md has the count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

Point = tuple[int, ...]
"""Shares in thousandths, in family order, summing to GRAIN: what is printed is exactly what was evaluated."""

GRAIN = 1000
STEPS = 20
"""Of the sweep over two members: alpha in steps of 0.05, as in section 3.2 of the paper."""

FINEST = 10
"""The pattern search ends below this step, 0.01: on 21 surfaces of denoisers, going beyond steps of 0.05 gained at most 0.003 dB."""

TOLERANCE = 5
"""Of Brent's search, in thousandths."""


class Spent(Exception):
    """The budget of evaluations is used up, or nothing can be better."""


class Landscape:
    """What has been evaluated: every point once.

    measure  shares -> one number for each measure, each to be made as large as possible.
    budget   how many points may be evaluated; calling for a new one beyond it raises Spent.
    """

    def __init__(self, measure: Callable[[tuple[float, ...]], tuple[float, ...]], budget: int) -> None:
        self._measure = measure
        self.budget = budget
        self.found: dict[Point, tuple[float, ...]] = {}

    def __call__(self, point: Point) -> tuple[float, ...]:
        if point not in self.found:
            if len(self.found) >= self.budget:
                raise Spent
            self.found[point] = self._measure(shares(point))
        return self.found[point]

    def best(self, aim: Callable[[tuple[float, ...]], float]) -> Point:
        """The point found so far at which `aim` of the measures is largest; of equal ones the first."""
        return max(self.found, key=lambda point: aim(self.found[point]))


Aim = Callable[[tuple[float, ...]], float]
"""What a search climbs: one number made of the measures."""


def shares(point: Point) -> tuple[float, ...]:
    """As floats: each the nearest one to its decimal fraction."""
    return tuple(part / GRAIN for part in point)


def survey(landscape: Landscape, members: int, most: int) -> None:
    """Look everywhere first: evenly spaced points, members themselves included, at most `most` (but always the members)."""
    if members == 2:
        steps = max(1, min(STEPS, most - 1))
        points = [rounded((step / steps, 1 - step / steps)) for step in range(steps + 1)]
    else:
        steps = max((k for k in range(1, 5) if math.comb(k + members - 1, k) <= most), default=1)
        points = sorted(lattice(members, steps), key=lambda point: -max(point))  # the members first
    for point in points:
        landscape(point)


def lattice(members: int, steps: int) -> Iterator[Point]:
    """All points whose shares are multiples of 1/steps."""
    for bars in combinations(range(steps + members - 1), members - 1):
        counts = np.diff([-1, *bars, steps + members - 1]) - 1
        yield rounded(counts / steps)


def rounded(point: Sequence[float] | NDArray[np.float64]) -> Point:
    """The nearest point in thousandths, of numbers in any unit: rounded down, and what is lacking given to the largest remainders."""
    scaled = np.maximum(np.asarray(point, np.float64), 0)
    scaled = scaled / scaled.sum() * GRAIN
    whole = np.floor(scaled + 1e-9).astype(int)
    for index in np.argsort(whole - scaled, kind="stable")[: GRAIN - int(whole.sum())]:
        whole[index] += 1
    return tuple(int(part) for part in whole)


def climb(landscape: Landscape, members: int, aim: Aim, most: int) -> Point:
    """Refine the best point of the survey with at most `most` more evaluations; returns the best of all."""
    budget = landscape.budget
    landscape.budget = min(budget, len(landscape.found) + most)
    try:
        _between(landscape, aim) if members == 2 else _pattern(landscape, aim)
    except Spent:
        pass
    finally:
        landscape.budget = budget
    return landscape.best(aim)


def _between(landscape: Landscape, aim: Aim) -> None:
    """Brent's search between the neighbours of the best alpha."""
    if aim(landscape.found[landscape.best(aim)]) == math.inf:  # identical pictures: nothing is better
        return
    known = sorted(point[0] for point in landscape.found)
    here = known.index(landscape.best(aim)[0])
    low, high = known[max(here - 1, 0)], known[min(here + 1, len(known) - 1)]

    def cost(alpha: float) -> float:
        part = round(alpha)
        value = aim(landscape((part, GRAIN - part)))
        if value == math.inf:
            raise Spent
        return -value

    minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": TOLERANCE})


def _pattern(landscape: Landscape, aim: Aim) -> None:
    gaps = [max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in combinations(list(landscape.found)[:64], 2)]
    step = max(min(gaps) // 2, FINEST)
    while step >= FINEST:
        here = landscape.best(aim)
        model = _Quadratic(landscape, aim, here, 2.5 * step)
        top = model.top(2 * step)
        if top not in landscape.found and aim(landscape(top)) > aim(landscape.found[here]):
            continue
        if not any(aim(landscape(point)) > aim(landscape.found[here]) for point in model.sorted(around(here, step))):
            step //= 2


def around(point: Point, step: int) -> list[Point]:
    """The points that give up to `step` from one member to another: they lie on the simplex and span all its directions."""
    found = []
    for giver, taker in permutations(range(len(point)), 2):
        moved = min(step, point[giver])
        if moved:
            there = list(point)
            there[giver] -= moved
            there[taker] += moved
            found.append(tuple(there))
    return found


class _Quadratic:
    """A quadratic through what is known near a point: least squares, and of all that fit the one with the smallest curvature."""

    def __init__(self, landscape: Landscape, aim: Aim, here: Point, reach: float) -> None:
        near = [
            (point, value)
            for point, values in landscape.found.items()
            if max(abs(a - b) for a, b in zip(point, here, strict=True)) <= reach and math.isfinite(value := aim(values))
        ]
        self._here, self._reach = np.array(here, np.float64), reach
        rows = np.array([self._terms(np.array(point, np.float64)) for point, _ in near])
        values = np.array([value for _, value in near])
        self._weights = np.linalg.lstsq(rows, values, rcond=None)[0] if near else np.zeros(len(self._terms(self._here)))

    def _terms(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        away = (point - self._here)[:-1] / self._reach  # the last share follows from the others
        upper = np.triu_indices(len(away))
        return np.concatenate([[1.0], away, np.outer(away, away)[upper]])

    def __call__(self, point: NDArray[np.float64]) -> float:
        return float(self._terms(point) @ self._weights)

    def sorted(self, points: list[Point]) -> list[Point]:
        return sorted(points, key=lambda point: -self(np.array(point, np.float64)))

    def top(self, reach: float) -> Point:
        """The largest value on the simplex within reach of the middle, where SLSQP finds it."""
        bounds = [(max(part - reach, 0), min(part + reach, GRAIN)) for part in self._here]
        found = minimize(
            lambda point: -self(point),
            self._here,
            bounds=bounds,
            constraints={"type": "eq", "fun": lambda point: point.sum() / GRAIN - 1},
            method="SLSQP",
        )
        return rounded(found.x) if np.isfinite(found.x).all() and found.x.sum() > 0 else rounded(self._here)

"""Recalibration: BatchNorm statistics of the blended network itself, known at knots of the simplex and interpolated between them.

A blend's activations do not have the blend of the members' running_mean and running_var. At the knots the statistics are
estimated anew (engines/onnxruntime_cpu/statistics.py); at the members alone they stay what training left there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import CoefficientsError, LimitError

MAX_CALIBRATION_POINTS = 32
"""The GPU's fold kernel blends so many rows of statistics at once (blend.cu)."""

DEFAULT_STEPS_TWO_MEMBERS = 10
"""By default 11 knots between two members; docs/recalibration.md has what more or fewer change."""

GRID_POINT_TOLERANCE = 1e-9
"""In steps of the lattice: a share that is nearer to a knot is meant to be on it (0.3 * 10 is not 3)."""

GROUPS_UNSUPPORTED_MESSAGE = (
    "Alpha by groups of weights does not go together with re-estimated BatchNorm statistics, which are known for one alpha of all "
    "weights; remove them with dni-deploy build BUNDLE --no-recalibration."
)
EXTRAPOLATION_UNSUPPORTED_MESSAGE = (
    "The BatchNorm statistics of this bundle were re-estimated for shares from 0 to 1, and nothing is known beyond; remove them with "
    "dni-deploy build BUNDLE --no-recalibration to extrapolate."
)

Tensors = Mapping[str, NDArray[Any]]


def default_steps(members: int, max_points: int | None = None) -> int:
    """Steps along an edge of the simplex: the most that need at most so many knots (None: 11 for two members, else 32).

    Raises LimitError where no knot but the members themselves would be among them, or for more than MAX_CALIBRATION_POINTS.
    """
    if max_points is not None and max_points > MAX_CALIBRATION_POINTS:
        raise LimitError(f"{max_points} knots are more than the {MAX_CALIBRATION_POINTS} that the engines blend at once.")
    limit = max_points or (DEFAULT_STEPS_TWO_MEMBERS + 1 if members == 2 else MAX_CALIBRATION_POINTS)
    steps = max(
        (steps for steps in range(1, MAX_CALIBRATION_POINTS) if comb(steps + members - 1, members - 1) <= limit), default=1
    )
    if steps < 2:
        least = comb(members + 1, members - 1)
        more = f"; the limit is {MAX_CALIBRATION_POINTS}" if least > MAX_CALIBRATION_POINTS else ""
        raise LimitError(f"Between {members} members the fewest knots are {least}, got {limit}{more}.")
    return steps


def enumerate_calibration_points(members: int, steps: int) -> NDArray[np.int64]:
    """Every way to hand out `steps` whole parts to the members: int64 (K, N), each row summing to steps, the first member's first."""
    bars = combinations(range(steps + members - 1), members - 1)
    rows = [np.diff([-1, *places, steps + members - 1]) - 1 for places in bars]
    return np.array(rows[::-1], np.int64)


@dataclass(frozen=True)
class BatchNormTable:
    """Statistics by the name of their tensor, (K, C) float64 each, a row for each knot, and how they came to be.

    steps   of the lattice along an edge of the simplex.
    about   the pictures and the sizes; free form, for people.
    Arrays are read-only and its own.
    """

    members: int
    steps: int
    statistics: Mapping[str, NDArray[np.float64]]
    about: Mapping[str, Any]

    @classmethod
    def from_inner_statistics(
        cls,
        members: Sequence[Tensors],
        steps: int,
        inner_statistics: Mapping[str, NDArray[np.float64]],
        about: Mapping[str, Any],
    ) -> BatchNormTable:
        """inner: the rows of the knots that are no member alone, in the lattice's order; the others are the members' own."""
        points = enumerate_calibration_points(len(members), steps)
        alone = points.max(axis=1) == steps
        statistics = {}
        for name, values in inner_statistics.items():
            rows = np.empty((len(points), values.shape[1]))
            rows[~alone] = values
            for row in np.flatnonzero(alone):
                rows[row] = members[int(points[row].argmax())][name]
            rows.flags.writeable = False
            statistics[name] = rows
        return cls(len(members), steps, statistics, about)

    def describe(self) -> dict[str, Any]:
        """For reports: how many knots, and how they came to be."""
        return {"calibration_points": len(self.calibration_points), **self.about}

    @cached_property
    def calibration_points(self) -> NDArray[np.float64]:
        """The knots' coefficients: float64 (K, N), the lattice in shares. Read-only."""
        knots = enumerate_calibration_points(self.members, self.steps) / self.steps
        knots.flags.writeable = False
        return knots

    @cached_property
    def inner_mask(self) -> NDArray[np.bool_]:
        """Which knots are no member alone: (K,)."""
        inner: NDArray[np.bool_] = self.calibration_points.max(axis=1) < 1.0
        return inner

    @cached_property
    def _row_by_point(self) -> dict[tuple[int, ...], int]:
        return {
            tuple(point): number for number, point in enumerate(enumerate_calibration_points(self.members, self.steps).tolist())
        }

    def validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """The one row of float64 (N,), or of (W, N) whose rows are all equal. Raises CoefficientsError where `shares` does."""
        row = np.asarray(coefficients, np.float64)
        if row.ndim == 2:
            if not bool((row == row[0]).all()):
                raise CoefficientsError(GROUPS_UNSUPPORTED_MESSAGE)
            row = row[0]
        if float(row.min()) < 0.0 or float(row.max()) > 1.0:
            raise CoefficientsError(EXTRAPOLATION_UNSUPPORTED_MESSAGE)
        return row

    def interpolation_weights(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each knot counts at these coefficients: float64 (N,) -> (K,), >= 0, summing to 1, at most N of them not 0.

        Kuhn's triangulation of the lattice: linear inside each of its simplices, one share of exactly 1 on a knot. Coefficients (W, N)
        are taken where all rows are equal. Raises CoefficientsError for rows that differ, and for shares outside 0 to 1.
        """
        row = self.validate_coefficients(coefficients)
        # Parts of the members from the i-th on, which fall from `steps` to 0: in these coordinates the simplices are those of sorting.
        parts = np.minimum(np.cumsum(row[::-1])[::-1] * self.steps, self.steps)
        parts[0] = self.steps
        near = np.rint(parts)
        parts = np.where(np.abs(parts - near) < GRID_POINT_TOLERANCE, near, parts)
        base = np.floor(parts)
        rest = parts - base
        order = np.argsort(-rest, kind="stable")
        shares = np.zeros(len(self.calibration_points))
        corner, before = base.astype(np.int64), 1.0
        for place in order:
            shares[self._row_by_point[self._to_point(corner)]] += before - rest[place]
            before = float(rest[place])
            if before == 0.0:
                break
            corner[place] += 1
        return shares

    def _to_point(self, parts: NDArray[np.int64]) -> tuple[int, ...]:
        return tuple((parts - np.append(parts[1:], 0)).tolist())

    def interpolate(self, coefficients: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The statistics at these coefficients, by name: float64 (C,), fresh. On a knot they are the knot's, bit for bit."""
        shares = self.interpolation_weights(coefficients)
        used = np.flatnonzero(shares)
        return {name: np.asarray(shares[used] @ rows[used]) for name, rows in self.statistics.items()}

    def tensors_at_points(self, members: Sequence[Tensors], names: Iterable[str]) -> list[dict[str, NDArray[np.float64]]]:
        """These tensors at each knot: the statistics, and what is linear in alpha blended. K dicts, for an engine's folds.

        What a fold needs of these sets (Fold.stack_statistics), blended by `shares`, is what it needs of the network.
        """
        wanted = [{name: tensors[name] for name in names} for tensors in members]
        made = []
        for number, knot in enumerate(self.calibration_points):
            own = {name: rows[number] for name, rows in self.statistics.items() if name in wanted[0]}
            made.append({**blend_float64(wanted, knot), **own})
        return made


def blend_tensors(
    members: Sequence[Tensors], coefficients: NDArray[np.float64], recalibration: BatchNormTable | None = None
) -> dict[str, NDArray[np.float64]]:
    """The tensors of a family at these coefficients in float64: the truth that every engine and every written file is held to.

    As blend_float64, and the statistics of `recalibration` in their places. Members may have any tensors, in one order.
    """
    made = blend_float64(members, coefficients)
    if recalibration is not None:
        made.update({name: values for name, values in recalibration.interpolate(coefficients).items() if name in made})
    return made


def correct_estimates(
    calibration_points: NDArray[np.float64],
    estimates: Sequence[Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]],
    member_statistics: Mapping[str, Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]],
    epsilons: Mapping[str, float],
) -> dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Estimates on a few pictures, corrected by what the members' own statistics say: per layer a (mean, variance) for each knot.

    knots      float64 (K, N), the members alone among them.
    estimates  per knot and layer, mean and variance on the pictures.
    own        per layer and member, mean and variance as training left them.
    epsilons   per layer, what is added to the variance.

    The pictures are not the training set, and at a member alone the estimate is off by as much as that matters. By as much, between the
    members in proportion, every estimate is corrected: variances by a factor, means by a number of standard deviations. So the ends
    stay what they are, members that are equal keep their statistics at every knot, and what a few pictures get wrong cancels.
    """
    ends = [int(np.flatnonzero(calibration_points[:, member] == 1.0)[0]) for member in range(calibration_points.shape[1])]
    corrected: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for layer, members in member_statistics.items():
        factors, moves, epsilon = [], [], epsilons[layer]
        for end, (mean, variance) in zip(ends, members, strict=True):
            estimated_mean, estimated_variance = estimates[end][layer]
            factors.append(np.log((variance + epsilon) / (estimated_variance + epsilon)))
            moves.append((mean - estimated_mean) / np.sqrt(estimated_variance + epsilon))
        rows = []
        for knot, estimate in zip(calibration_points, estimates, strict=True):
            mean, variance = estimate[layer]
            factor, move = np.exp(knot @ np.stack(factors)), knot @ np.stack(moves)
            rows.append((mean + move * np.sqrt(variance + epsilon), np.maximum((variance + epsilon) * factor - epsilon, 0.0)))
        corrected[layer] = rows
    return corrected

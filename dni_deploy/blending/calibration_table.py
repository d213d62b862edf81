"""What a blend's tensors are instead of blended, known at calibration points of the simplex and interpolated between them.

They are means and variances of BatchNorms, because a blend's activations do not have the blend of the members' running_mean and
running_var, or the scale and shift of corrected layers (engines/lowering/calibration_nodes.py). At the calibration points they
are fitted on pictures (dni_deploy/calibration/); at the members alone they are the members' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64, iterate_blended
from dni_deploy.errors import CoefficientsError, LimitError

MAX_CALIBRATION_POINTS = 32
"""The GPU's fold kernel blends so many rows of statistics at once (blend.cu)."""

DEFAULT_STEPS_TWO_MEMBERS = 10
"""By default 11 calibration points between two members; docs/calibration.md has what more or fewer change."""

GRID_POINT_TOLERANCE = 1e-9
"""In grid steps: a coefficient that is nearer to a grid point is meant to be on it (0.3 * 10 is not 3)."""

GROUPS_UNSUPPORTED_MESSAGE = (
    "Alpha by groups of weights does not go together with a calibration, which is known for one alpha of all weights; remove "
    "it with dni-deploy build BUNDLE --no-calibration."
)
EXTRAPOLATION_UNSUPPORTED_MESSAGE = (
    "This bundle is calibrated for shares from 0 to 1, and nothing is known beyond; remove the calibration with "
    "dni-deploy build BUNDLE --no-calibration to extrapolate."
)

Tensors = Mapping[str, NDArray[Any]]
Moments = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean and variance of the channels of a layer, float64 (C,) each."""


def count_calibration_points(members: int, steps: int) -> int:
    """Counts the points of a simplex grid, the members alone included."""
    return comb(steps + members - 1, members - 1)


def default_steps(members: int, max_points: int | None = None) -> int:
    """Chooses the finest grid that needs at most a number of calibration points.

    Args:
        members: Number of members.
        max_points: The most points; None for 11 between two members and 32 between more.

    Returns:
        Grid steps along an edge of the simplex.

    Raises:
        LimitError: The members alone would be the only points, or there may be more than MAX_CALIBRATION_POINTS.
    """
    if max_points is not None and max_points > MAX_CALIBRATION_POINTS:
        raise LimitError(
            f"{max_points} calibration points are more than the {MAX_CALIBRATION_POINTS} that the engines blend at once."
        )
    limit = max_points or (DEFAULT_STEPS_TWO_MEMBERS + 1 if members == 2 else MAX_CALIBRATION_POINTS)
    steps = max((n for n in range(1, MAX_CALIBRATION_POINTS) if count_calibration_points(members, n) <= limit), default=1)
    if steps < 2:
        least = count_calibration_points(members, 2)
        more = f"; the limit is {MAX_CALIBRATION_POINTS}" if least > MAX_CALIBRATION_POINTS else ""
        raise LimitError(f"Between {members} members the fewest calibration points are {least}, got {limit}{more}.")
    return steps


def enumerate_calibration_points(members: int, steps: int) -> NDArray[np.int64]:
    """Lists all points of a simplex grid.

    Args:
        members: Number of members, N.
        steps: Grid steps along an edge of the simplex.

    Returns:
        int64 (K, N): one row per point, in units of 1/steps, each row summing to steps, in descending order.
    """
    bars = combinations(range(steps + members - 1), members - 1)
    rows = [np.diff([-1, *positions, steps + members - 1]) - 1 for positions in bars]
    return np.array(rows[::-1], np.int64)


@dataclass(frozen=True)
class CalibrationTable:
    """The calibrated tensors at every calibration point. Arrays are read-only and its own.

    Attributes:
        members: Number of members, N.
        steps: Grid steps along an edge of the simplex.
        statistics: float64 (K, C) by the name of the tensor, a row for each calibration point.
        about: How they came to be: the images and the sizes; free form, for people.

    Thread safety: it does not change; any thread may use it.
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
    ) -> CalibrationTable:
        """Builds the table from the statistics at the inner points; at a member alone they are the member's own.

        Args:
            members: The tensors of each member by name, in family order.
            steps: Grid steps along an edge of the simplex.
            inner_statistics: float64 (K - N, C) by name: a row for each point that is no member alone, in the grid's order.
            about: How they came to be.
        """
        points = enumerate_calibration_points(len(members), steps)
        is_inner = points.max(axis=1) < steps
        statistics = {}
        for name, values in inner_statistics.items():
            rows = np.empty((len(points), values.shape[1]))
            rows[is_inner] = values
            for row in np.flatnonzero(~is_inner):
                rows[row] = members[int(points[row].argmax())][name]
            rows.flags.writeable = False
            statistics[name] = rows
        return cls(len(members), steps, statistics, about)

    @cached_property
    def calibration_points(self) -> NDArray[np.float64]:
        """The coefficients of the calibration points: float64 (K, N), read-only."""
        points = enumerate_calibration_points(self.members, self.steps) / self.steps
        points.flags.writeable = False
        return points

    @cached_property
    def inner_mask(self) -> NDArray[np.bool_]:
        """Which calibration points are no member alone: bool (K,)."""
        return np.asarray(self.calibration_points.max(axis=1) < 1.0)

    @cached_property
    def _row_by_point(self) -> dict[tuple[int, ...], int]:
        points = enumerate_calibration_points(self.members, self.steps).tolist()
        return {tuple(point): row for row, point in enumerate(points)}

    def validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Validates coefficients for interpolation.

        Args:
            coefficients: float64 (N,), or (W, N) with equal rows.

        Returns:
            float64 (N,), the one row.

        Raises:
            CoefficientsError: Rows differ, or a coefficient is outside 0 to 1.
        """
        row = np.asarray(coefficients, np.float64)
        if row.ndim == 2:
            if not bool((row == row[0]).all()):
                raise CoefficientsError(GROUPS_UNSUPPORTED_MESSAGE)
            row = row[0]
        if float(row.min()) < 0.0 or float(row.max()) > 1.0:
            raise CoefficientsError(EXTRAPOLATION_UNSUPPORTED_MESSAGE)
        return row

    def interpolation_weights(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes how much each calibration point counts: linear inside each simplex of Kuhn's triangulation of the grid.

        Args:
            coefficients: As `validate_coefficients` takes them.

        Returns:
            float64 (K,), >= 0, summing to 1, at most N of them not 0; exactly 1 on a calibration point.

        Raises:
            CoefficientsError: As `validate_coefficients`.
        """
        row = self.validate_coefficients(coefficients).tolist()  # of a few members Python computes faster than NumPy
        # Parts of the members from the i-th on, falling from `steps` to 0: in these coordinates sorting gives the simplex.
        parts = [min(part * self.steps, self.steps) for part in accumulate(reversed(row))][::-1]
        parts[0] = self.steps
        parts = [round(part) if abs(part - round(part)) < GRID_POINT_TOLERANCE else part for part in parts]
        corner = [int(part) for part in parts]
        fractions = [part - whole for part, whole in zip(parts, corner, strict=True)]
        weights = np.zeros(len(self.calibration_points))
        before = 1.0
        for axis in sorted(range(len(row)), key=lambda index: -fractions[index]):
            point = tuple(whole - following for whole, following in zip(corner, [*corner[1:], 0], strict=True))
            weights[self._row_by_point[point]] += before - fractions[axis]
            before = fractions[axis]
            if before == 0.0:
                break
            corner[axis] += 1
        return weights

    def interpolate(self, coefficients: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Interpolates the statistics; on a calibration point they are that point's, bit for bit.

        Args:
            coefficients: As `validate_coefficients` takes them.

        Returns:
            float64 (C,) by name, fresh arrays.

        Raises:
            CoefficientsError: As `validate_coefficients`.
        """
        weights = self.interpolation_weights(coefficients)
        used = np.flatnonzero(weights)
        return {name: np.asarray(weights[used] @ rows[used]) for name, rows in self.statistics.items()}

    def tensors_at_points(self, members: Sequence[Tensors], names: Iterable[str]) -> list[dict[str, NDArray[np.float64]]]:
        """Computes tensors at each calibration point: the statistics, and what is linear in alpha blended.

        What an engine's fold needs of these tensors (Fold.stack_statistics), blended by `interpolation_weights`, is what it
        needs of the network.

        Returns:
            K dicts of float64 tensors by name.
        """
        selected = [{name: tensors[name] for name in names} for tensors in members]
        return [
            {
                **blend_float64(selected, point),
                **{name: rows[row] for name, rows in self.statistics.items() if name in selected[0]},
            }
            for row, point in enumerate(self.calibration_points)
        ]


def blend_tensors(
    members: Sequence[Tensors], coefficients: NDArray[np.float64], calibration: CalibrationTable | None = None
) -> dict[str, NDArray[np.float64]]:
    """Blends the tensors of a family in float64: the reference that every engine and every written file is compared with.

    Args:
        members: The tensors of each member by name, in one order; any tensors of the network.
        coefficients: As `blend_float64` takes them.
        calibration: Statistics that take the place of the blended ones.

    Returns:
        Fresh float64 arrays by name.

    Raises:
        CoefficientsError: As `CalibrationTable.validate_coefficients`.
    """
    return dict(iterate_blended_tensors(members, coefficients, calibration))


def iterate_blended_tensors(
    members: Sequence[Tensors], coefficients: NDArray[np.float64], calibration: CalibrationTable | None = None
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Blends as `blend_tensors` does, one tensor after the other: all of them in float64 are twice as large as a member."""
    statistics = {} if calibration is None else calibration.interpolate(coefficients)
    for name, tensor in iterate_blended(members, coefficients):
        yield name, statistics.get(name, tensor)

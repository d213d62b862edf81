"""Points between the members, and the straight lines between them.

Every point that is computed here sums to 1 as well as the ends of its line do, rounding included, and no coefficient lies
outside the range of those of the ends: between alphas in 0 to 1 every point is in 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dni_deploy.alpha.coefficients import SUM_TOLERANCE, Coefficients
from dni_deploy.alpha.member_names import require_member
from dni_deploy.errors import CoefficientsError, escape_name

MAX_SUM_ROUNDING = 1e-12
"""A sum that is off by less was meant to be 1; one that is off by more was written so, within SUM_TOLERANCE, and stays."""


def interpolate_values(start: Sequence[float], end: Sequence[float], fraction: float) -> tuple[float, ...]:
    """Interpolates between two points.

    Args:
        start: Coefficients at fraction 0.
        end: Coefficients at fraction 1.
        fraction: Part of the line from start to end; below 0 is start and above 1 is end.

    Returns:
        The coefficients; at 0 and at 1 exactly those of the end.
    """
    if fraction <= 0.0:
        return tuple(start)
    if fraction >= 1.0:
        return tuple(end)
    return fix_rounded_sum(
        [
            min(max((1.0 - fraction) * one + fraction * other, min(one, other)), max(one, other))
            for one, other in zip(start, end, strict=True)
        ]
    )


def fix_rounded_sum(values: Sequence[float]) -> tuple[float, ...]:
    """Corrects what rounding took from the sum of coefficients, or added to it, in the largest one.

    A sum that is off by more, because an alpha was written so, stays, as far as Coefficients accept it.
    """
    error = 1.0 - math.fsum(values)
    corrected = list(values)
    if error and not MAX_SUM_ROUNDING < abs(error) <= SUM_TOLERANCE:
        corrected[max(range(len(corrected)), key=corrected.__getitem__)] += error
    return tuple(corrected)


def interpolate(start: Coefficients, end: Coefficients, fraction: float) -> Coefficients:
    """Interpolates between the coefficients of one family, as `interpolate_values` does."""
    if start.values == end.values:
        return end
    return Coefficients(end.members, interpolate_values(start.values, end.values, fraction))


def with_coefficient(point: Coefficients, member: str, coefficient: float, *, extrapolate: bool = False) -> Coefficients:
    """Sets one member's coefficient; the others keep their proportions, or get equal parts if they had none.

    Args:
        point: The coefficients to start from.
        member: Name of the member.
        coefficient: Its new coefficient.
        extrapolate: Whether coefficients outside 0 to 1 are allowed.

    Returns:
        The new coefficients.

    Raises:
        CoefficientsError: There is no such member, or the coefficient is NaN, infinite, or outside 0 to 1 without
            `extrapolate`.
    """
    member = require_member(member, point.members)
    if not math.isfinite(coefficient) or not (extrapolate or 0.0 <= coefficient <= 1.0):
        raise CoefficientsError(f"The share of {escape_name(member)!r} is {coefficient:g}; it must be a number from 0 to 1.")
    index = point.members.index(member)
    others = [*point.values[:index], 0.0, *point.values[index + 1 :]]
    if math.fsum(others) <= 0.0:
        others = [0.0 if name == member else 1.0 for name in point.members]
    total = math.fsum(others)
    values = [value / total * (1.0 - coefficient) for value in others]
    values[index] = float(coefficient)
    if not extrapolate:
        values = [min(max(value, 0.0), 1.0) for value in values]
    return Coefficients.parse(fix_rounded_sum(values), point.members, extrapolate=extrapolate)

"""Simplex: points between the members, and the straight ways between them.

Every point that is made here sums to 1 as well as its ends do, rounding included, and none of its shares lies farther out than
those of its ends: from alphas in [0, 1] no step leads out of [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dni_deploy.alpha.coefficients import SUM_TOLERANCE, Alpha, Coefficients
from dni_deploy.errors import CoefficientsError, escape_name

MAX_SUM_ROUNDING = 1e-12
"""A sum that is off by less was meant to be 1; one that is off by more was given so, within SUM_TOLERANCE, and stays."""


def fill_missing_member(alpha: Alpha, members: Sequence[str], *, extrapolate: bool = False) -> Coefficients:
    """As Coefficients.parse, but the one member that an alpha by name leaves out takes what is left of 1.

    "gan=0" of psnr and gan is psnr=1. Where more than one is left out they have share 0, and the sum has to be 1.
    Raises CoefficientsError.
    """
    named = _parse_named(alpha)
    left_out = [member for member in members if member not in named]
    if len(left_out) == 1 and len(named) == len(members) - 1:
        try:
            rest = 1.0 - math.fsum(float(share) for share in named.values())
        except (TypeError, ValueError, OverflowError):
            rest = math.nan  # the sentence for it is that of parse
        if math.isfinite(rest) and (extrapolate or 0.0 <= rest <= 1.0):
            alpha = {**named, left_out[0]: rest}  # type: ignore[dict-item]
    return Coefficients.parse(alpha, members, extrapolate=extrapolate)


def _parse_named(alpha: Alpha) -> dict[object, str | float]:
    """The shares by name, as they are written; {} where the alpha is not by name, or not to be read."""
    found: dict[object, str | float] = {}
    if isinstance(alpha, Mapping):
        found.update(alpha.items())
        return found
    if not isinstance(alpha, str):
        return {}
    for part in alpha.split(","):
        name, equals, share = part.rpartition("=")
        if not equals or name.strip() in found:
            return {}
        found[name.strip()] = share
    return found


def interpolate_values(start: Sequence[float], end: Sequence[float], fraction: float) -> tuple[float, ...]:
    """The shares a part of the way from start to end, 0 <= way <= 1; at 0 and at 1 exactly those of the end."""
    if fraction <= 0.0:
        return tuple(start)
    if fraction >= 1.0:
        return tuple(end)
    shares = [
        min(max((1.0 - fraction) * one + fraction * other, min(one, other)), max(one, other))
        for one, other in zip(start, end, strict=True)
    ]
    return fix_rounded_sum(shares)


def fix_rounded_sum(values: Sequence[float]) -> tuple[float, ...]:
    """The shares with what rounding took from their sum, or added to it, put right in the largest one.

    A sum that is off by more, because an alpha was given so, stays, as far as Coefficients take it.
    """
    off = 1.0 - math.fsum(values)
    if off and not MAX_SUM_ROUNDING < abs(off) <= SUM_TOLERANCE:
        made = list(values)
        made[max(range(len(made)), key=made.__getitem__)] += off
        return tuple(made)
    return tuple(values)


def interpolate(start: Coefficients, end: Coefficients, fraction: float) -> Coefficients:
    """The coefficients a part of the straight way from start to end; both of one family."""
    if start.values == end.values:
        return end
    return Coefficients(end.members, interpolate_values(start.values, end.values, fraction))


def with_coefficient(point: Coefficients, member: str, coefficient: float, *, extrapolate: bool = False) -> Coefficients:
    """The point at which one member has this share and the others keep their proportions; in equal parts if they had none.

    Raises CoefficientsError: no such member, NaN or infinite, outside 0 to 1 without `extrapolate`.
    """
    if member not in point.members:
        raise CoefficientsError(
            f"There is no member {escape_name(member)!r}; the members are {', '.join(repr(escape_name(name)) for name in point.members)}."
        )
    if not math.isfinite(coefficient) or not (extrapolate or 0.0 <= coefficient <= 1.0):
        raise CoefficientsError(f"The share of {escape_name(member)!r} is {coefficient:g}; it must be a number from 0 to 1.")
    place = point.members.index(member)
    others = [0.0 if index == place else own for index, own in enumerate(point.values)]
    total = math.fsum(others)
    if total <= 0.0:
        others = [0.0 if index == place else 1.0 for index in range(len(others))]
        total = len(others) - 1.0
    shares = [own / total * (1.0 - coefficient) for own in others]
    shares[place] = float(coefficient)
    if not extrapolate:
        shares = [min(max(own, 0.0), 1.0) for own in shares]
    return Coefficients.parse(list(fix_rounded_sum(shares)), point.members, extrapolate=extrapolate)

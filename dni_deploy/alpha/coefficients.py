"""Coefficients: one number per member, >= 0, summing to 1 (Eq. 1 and 2 of the DNI paper)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import CoefficientsError, escape_name

SUM_TOLERANCE = 1e-6
"""How far the sum may be from 1: decimal fractions such as 0.1 do not add up exactly; nothing is renormalised."""

Alpha = Union[float, str, Mapping[str, float], Sequence[float], "Coefficients"]
"""What a user may give: the first member's share (two members), one number per member, or shares by name."""


@dataclass(frozen=True)
class Coefficients:
    """The members' shares, in family order.

    members  the names, in family order.
    shares   one finite number per member, summing to 1 within SUM_TOLERANCE; outside [0, 1] only by extrapolation.
    """

    members: tuple[str, ...]
    values: tuple[float, ...]

    @classmethod
    def parse(cls, alpha: Alpha, members: Sequence[str], *, extrapolate: bool = False) -> Coefficients:
        """Read an alpha as given by a user.

        0.35               two members: the first member's share, Eq. 1
        "0.35"             the same, from a command line
        "a=0.3,b=0.7"      by name; a name that is left out has share 0
        "0.2,0.3,0.5"      one number per member
        {"a": 0.3, ...}    by name;  [0.2, 0.3, 0.5]  by position

        Raises CoefficientsError: NaN or infinite, out of [0, 1] without `extrapolate`, wrong count, sum not 1, unknown name.
        """
        names = tuple(members)
        if isinstance(alpha, Coefficients):
            if alpha.members != names:
                raise CoefficientsError(
                    f"Alpha is for the members {_format_names(alpha.members)}, this family has {_format_names(names)}."
                )
            shares: Sequence[float] = alpha.values
        elif isinstance(alpha, str):
            shares = _from_text(alpha, names)
        elif isinstance(alpha, Mapping):
            shares = _from_names(alpha, names)
        elif (isinstance(alpha, Sequence) and not isinstance(alpha, (bytes, bytearray))) or (
            isinstance(alpha, np.ndarray) and alpha.ndim == 1
        ):
            shares = [_parse_number(share) for share in alpha]
            if len(shares) != len(names):
                raise CoefficientsError(
                    f"Alpha has {len(shares)} numbers, the family has {len(names)} members: {_format_names(names)}."
                )
        else:
            shares = _from_number(_parse_number(alpha), names)
        return cls(names, _validate_coefficients(shares, names, extrapolate))

    @classmethod
    def one_hot(cls, member: str, members: Sequence[str]) -> Coefficients:
        """The coefficients at which the blend is that member, bit for bit."""
        return cls.parse({member: 1.0}, members)

    def to_array(self) -> NDArray[np.float64]:
        """float64 (N,), in family order; a fresh array, the caller's own."""
        return np.array(self.values, np.float64)

    def __str__(self) -> str:
        return ", ".join(f"{escape_name(name)}={share:.6g}" for name, share in zip(self.members, self.values, strict=True))


def _from_text(text: str, names: tuple[str, ...]) -> Sequence[float]:
    parts = [part.strip() for part in text.split(",")]
    if any("=" in part for part in parts):
        by_name: dict[str, float] = {}
        for part in parts:
            name, equals, share = part.rpartition("=")
            if not equals or not name:
                raise CoefficientsError(
                    f"Alpha {escape_name(text)!r} mixes numbers and names; write name=number for each member."
                )
            if name.strip() in by_name:
                raise CoefficientsError(f"Alpha {escape_name(text)!r} names {escape_name(name.strip())!r} twice.")
            by_name[name.strip()] = _parse_number(share)
        return _from_names(by_name, names)
    if len(parts) == 1:
        return _from_number(_parse_number(parts[0]), names)
    if len(parts) != len(names):
        raise CoefficientsError(f"Alpha has {len(parts)} numbers, the family has {len(names)} members: {_format_names(names)}.")
    return [_parse_number(part) for part in parts]


def _from_names(by_name: Mapping[str, float], names: tuple[str, ...]) -> Sequence[float]:
    unknown = [name for name in by_name if name not in names]
    if unknown:
        raise CoefficientsError(f"Alpha names {_format_names(unknown)}; the members are {_format_names(names)}.")
    if not by_name:
        raise CoefficientsError(f"Alpha is empty; give a share to at least one of {_format_names(names)}.")
    return [_parse_number(by_name.get(name, 0.0)) for name in names]


def _from_number(share: float, names: tuple[str, ...]) -> Sequence[float]:
    if len(names) != 2:
        raise CoefficientsError(
            f"One number is an alpha for two members, this family has {len(names)}; "
            f"write it as {','.join(f'{escape_name(name)}={1 / len(names):.2g}' for name in names)} or as {len(names)} numbers."
        )
    return [share, 1.0 - share]


def _parse_number(share: object) -> float:
    try:
        if not isinstance(share, (bytes, bytearray)):
            return float(share)  # type: ignore[arg-type]
    except OverflowError:
        raise CoefficientsError("An integer in alpha is larger than any float; a share is from 0 to 1.") from None
    except (TypeError, ValueError):
        pass
    raise CoefficientsError(f"{escape_name(repr(share))} in alpha is not a number.")


def _validate_coefficients(shares: Sequence[float], names: tuple[str, ...], extrapolate: bool) -> tuple[float, ...]:
    for name, share in zip(names, shares, strict=True):
        if not math.isfinite(share):
            raise CoefficientsError(f"The share of {escape_name(name)!r} is {share}; it must be a finite number.")
        if not extrapolate and not 0.0 <= share <= 1.0:
            raise CoefficientsError(
                f"The share of {escape_name(name)!r} is {share:g}, outside 0 to 1; extrapolation has to be asked for (--extrapolate)."
            )
    try:
        total = math.fsum(shares)
    except OverflowError:  # of finite numbers, by extrapolation
        total = math.inf
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise CoefficientsError(
            f"The shares sum to {total:.9g} and must sum to 1: "
            + ", ".join(f"{escape_name(name)}={share:g}" for name, share in zip(names, shares, strict=True))
        )
    return tuple(float(share) for share in shares)


def _format_names(names: Sequence[str]) -> str:
    return ", ".join(repr(escape_name(name)) for name in names) or "none"

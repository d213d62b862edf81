"""Alpha of one frame: one coefficient per member, >= 0, summing to 1 (Eq. 1 and 2 of the DNI paper)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.member_names import find_member, format_members
from dni_deploy.alpha.member_path import PATH_KEY, follow_path, read_path_position
from dni_deploy.errors import CoefficientsError, escape_name
from dni_deploy.utils.near_names import suggest_name

SUM_TOLERANCE = 1e-6
"""How far the sum may be from 1: decimal fractions such as 0.1 do not add up exactly. Nothing is normalized."""

DECIMAL_COMMA_PATTERN = re.compile(r"[+-]?[0-9]+,[0-9]+")
"""What may be one number with a decimal comma, as many languages write it, or two shares."""

Alpha = Union[float, str, Mapping[str, float], Sequence[float], "Coefficients"]
"""What a user may pass: the first member's share (two members), one number per member, or shares by name."""


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of a blend, in family order.

    Attributes:
        members: Names of the members, in family order.
        values: One finite number per member, summing to 1 within SUM_TOLERANCE; outside 0 to 1 only by extrapolation.
    """

    members: tuple[str, ...]
    values: tuple[float, ...]

    @classmethod
    def parse(cls, alpha: Alpha, members: Sequence[str], *, extrapolate: bool = False) -> Coefficients:
        """Reads an alpha as a user writes it.

            0.35               two members: the first member's share, Eq. 1
            "0.35", "35%"      the same, from a command line
            "a=0.3,b=0.7"      by name, upper or lower case
            "a=0.3"            two members: b takes the rest; in general the one member that is left out. Where more are left
                               out, they have share 0.
            "0.2,0.3,0.5"      one number per member
            {"a": 0.3, ...}    by name;  [0.2, 0.3, 0.5]  by position
            "path=0.4"         or {"path": 0.4}: on the way from the first member to the last (member_path.py)

        Args:
            alpha: The alpha, in any of these forms.
            members: Names of the family's members, in its order.
            extrapolate: Whether shares outside 0 to 1 are allowed.

        Returns:
            The coefficients.

        Raises:
            CoefficientsError: A share is NaN, infinite or outside 0 to 1 without `extrapolate`, the count or the sum is wrong,
                or a name is unknown.
        """
        names = tuple(members)
        position = read_path_position(alpha, names)
        if position is not None:
            return cls(names, follow_path(position, len(names)))
        form: Any = _split_text(alpha) if isinstance(alpha, str) else alpha
        if isinstance(form, Coefficients):
            if form.members != names:
                raise CoefficientsError(
                    f"Alpha is for the members {format_members(form.members)}, this family has {format_members(names)}."
                )
            values: Sequence[float] = form.values
        elif isinstance(form, Mapping):
            values = _order_by_name(form, names, extrapolate)
        elif (isinstance(form, Sequence) and not isinstance(form, (str, bytes, bytearray))) or (
            isinstance(form, np.ndarray) and form.ndim == 1
        ):
            values = [parse_share(value) for value in form]
            if len(values) != len(names):
                raise CoefficientsError(
                    f"Alpha has {len(values)} numbers, the family has {len(names)} members: {format_members(names)}."
                )
        else:
            values = _expand_single_number(form, names)
        try:
            _validate_coefficients(values, names, extrapolate)
        except CoefficientsError as error:
            if isinstance(alpha, str) and DECIMAL_COMMA_PATTERN.fullmatch(alpha.strip()):
                number = alpha.strip().replace(",", ".")
                raise CoefficientsError(f"{error} Two numbers are two shares; for one number write {number}") from None
            raise
        return cls(names, tuple(float(value) for value in values))

    @classmethod
    def one_hot(cls, member: str, members: Sequence[str]) -> Coefficients:
        """Makes the coefficients at which the blend is that member, bit for bit."""
        return cls.parse({member: 1.0}, members)

    def to_array(self) -> NDArray[np.float64]:
        """Copies the coefficients into a new array, float64 (N,), in family order."""
        return np.array(self.values, np.float64)

    def __str__(self) -> str:
        return ", ".join(f"{escape_name(name)}={value:.6g}" for name, value in zip(self.members, self.values, strict=True))


def find_decimal_comma(alpha: object) -> str | None:
    """Finds the one alpha that two people mean differently: "0,1", two shares, 0 and 1, or one number, 0.1.

    Args:
        alpha: An alpha as a user writes it.

    Returns:
        A sentence that says how it is read; None for any other alpha ("1,0" is the same either way).
    """
    if not isinstance(alpha, str) or re.fullmatch(r"\s*0,1\s*", alpha) is None:
        return None
    return "--alpha 0,1 was read as two shares, 0 and 1; for one number write 0.1"


def _split_text(text: str) -> dict[str, str] | list[str] | str:
    """The parts of an alpha as text: by name, by position, or one number."""
    parts = [part.strip() for part in text.split(",")]
    if not any("=" in part for part in parts):
        return parts if len(parts) > 1 else parts[0]
    by_name: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.rpartition("=")
        name = name.strip()
        if not equals or not name:
            raise CoefficientsError(f"Alpha {escape_name(text)!r} mixes numbers and names; write name=number for each member.")
        if name in by_name:
            raise CoefficientsError(f"Alpha {escape_name(text)!r} names {escape_name(name)!r} twice.")
        by_name[name] = value.strip()
    return by_name


def _order_by_name(by_name: Mapping[Any, object], names: tuple[str, ...], extrapolate: bool) -> list[float]:
    if not by_name:
        raise CoefficientsError(f"Alpha is empty; give a share to at least one of {format_members(names)}.")
    values: dict[str, float] = {}
    for name, value in by_name.items():
        member = find_member(name, names)
        if member is None:
            if name == PATH_KEY:
                hint = ", and a path is alone."
            elif ":" in str(name):
                hint = "; an alpha that changes over time is for `video`, `filter` and `serve`."
            else:
                hint = suggest_name(str(name), names)
            raise CoefficientsError(f"Alpha names {format_members([name])}; the members are {format_members(names)}{hint}")
        if member in values:
            raise CoefficientsError(f"Alpha names {escape_name(member)!r} twice.")
        values[member] = parse_share(value)
    rest = 1.0 - _sum_values(values.values()) if len(values) == len(names) - 1 else 0.0
    if not math.isfinite(rest) or not (extrapolate or 0.0 <= rest <= 1.0):
        rest = 0.0
    return [values.get(name, rest) for name in names]


def _expand_single_number(number: object, names: tuple[str, ...]) -> list[float]:
    member = find_member(number, names)
    if member is not None:
        raise CoefficientsError(f"Alpha is the name of a member; for that member alone write {escape_name(member)}=1.")
    value = parse_share(number)
    if len(names) != 2:
        raise CoefficientsError(
            f"One number is an alpha for two members, this family has {len(names)}; "
            f"write it as {','.join(f'{escape_name(name)}={1 / len(names):.2g}' for name in names)} or as {len(names)} numbers."
        )
    return [value, 1.0 - value]


def parse_share(value: object) -> float:
    """Reads one share, as a number or as a text such as "0.35" or "35%".

    Raises:
        CoefficientsError: It is not a number.
    """
    try:
        if isinstance(value, str) and value.rstrip().endswith("%"):
            return float(value.rstrip()[:-1]) / 100
        if not isinstance(value, (bytes, bytearray)):
            return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise CoefficientsError("An integer in alpha is larger than any float; a share is from 0 to 1.") from None
    except (TypeError, ValueError):
        pass
    hint = (
        "; shares are separated by commas, and a name has an equals sign: psnr=0.3,gan=0.7" if _looks_like_list(value) else ""
    )
    raise CoefficientsError(f"{escape_name(repr(value))} in alpha is not a number{hint}.")


def _looks_like_list(value: object) -> bool:
    return isinstance(value, str) and re.search(r"[0-9] *[;/| ] *\.?[0-9]|[:;]", value) is not None


def _validate_coefficients(values: Sequence[float], names: tuple[str, ...], extrapolate: bool) -> None:
    for name, value in zip(names, values, strict=True):
        if not math.isfinite(value):
            raise CoefficientsError(f"The share of {escape_name(name)!r} is {value}; it must be a finite number.")
        if not extrapolate and not 0.0 <= value <= 1.0:
            raise CoefficientsError(
                f"The share of {escape_name(name)!r} is {value:g}, outside 0 to 1; --extrapolate allows extrapolation."
            )
    total = _sum_values(values)
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise CoefficientsError(
            f"The shares sum to {total:.9g} and must sum to 1: "
            + ", ".join(f"{escape_name(name)}={value:g}" for name, value in zip(names, values, strict=True))
        )


def _sum_values(values: Iterable[float]) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # beyond the largest float by extrapolation, or of infinities
        return math.inf

"""The path through a family: from each member to the next, in the family's order, in equal parts.

A family of four noise levels n0, n1, n2, n3 has neighbors that blend and ends that may not: a position on the path, 0 to 1, is one
slider over all of them, on which two neighbors at most have a share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dni_deploy.errors import CoefficientsError, escape_name

PATH_KEY = "path"
"""What stands in place of a member's name; a member of this name comes first."""


def read_path_position(alpha: object, members: Sequence[str]) -> float | None:
    """Reads a position on the path.

    Args:
        alpha: An alpha: "path=0.4" or {"path": 0.4}, or anything else.
        members: Names of the family's members.

    Returns:
        The position, 0 to 1; None for any other alpha.

    Raises:
        CoefficientsError: The position is not a number from 0 to 1.
    """
    if PATH_KEY in members:
        return None
    if isinstance(alpha, str):
        name, equals, value = alpha.partition("=")
        alpha = {name.strip(): value} if equals and "," not in alpha else None
    if not isinstance(alpha, Mapping) or set(alpha) != {PATH_KEY}:
        return None
    try:
        position = float(alpha[PATH_KEY])
    except (TypeError, ValueError, OverflowError):
        position = float("nan")
    if not 0.0 <= position <= 1.0:
        raise CoefficientsError(f"{escape_name(alpha[PATH_KEY], 60)!r} is not a position on the path, which goes from 0 to 1.")
    return position


def follow_path(position: float, member_count: int) -> tuple[float, ...]:
    """Computes the coefficients at a position on the path.

    Args:
        position: 0 is the first member, 1 the last one.
        member_count: Number of members, N.

    Returns:
        N coefficients that sum to 1; at a member exactly 1 and 0.
    """
    place = position * (member_count - 1)
    before = min(int(place), member_count - 1)
    share = place - before
    values = [0.0] * member_count
    values[before] = 1.0 - share
    if share:
        values[before + 1] = share
    return tuple(values)

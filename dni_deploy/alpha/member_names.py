"""A member as a user writes it: by its name, upper or lower case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dni_deploy.errors import CoefficientsError, escape_name
from dni_deploy.utils.near_names import match_case, suggest_name


def find_member(name: object, members: Sequence[str]) -> str | None:
    """Finds the member that a name stands for.

    Args:
        name: The name; one that is no text is no member's.
        members: Names of the family's members.

    Returns:
        The member's own name: the same, or the only one that differs by upper and lower case alone. None where there is none.

    Raises:
        CoefficientsError: Several members differ from the name by upper and lower case.
    """
    found = match_case(name, members) if isinstance(name, str) else []
    if len(found) > 1:
        raise CoefficientsError(f"{escape_name(name)!r} may be {format_members(found)}; write it as the member is named.")
    return found[0] if found else None


def require_member(name: object, members: Sequence[str]) -> str:
    """Finds the member that a name stands for.

    Raises:
        CoefficientsError: There is none, or several differ from the name by upper and lower case alone.
    """
    found = find_member(name, members)
    if found is None:
        text = name if isinstance(name, str) else str(name)
        raise CoefficientsError(
            f"There is no member {escape_name(text)!r}; the members are {format_members(members)}{suggest_name(text, members)}"
        )
    return found


def format_members(names: Iterable[object]) -> str:
    """Formats names for a message: 'psnr', 'gan'."""
    return ", ".join(repr(escape_name(name)) for name in names) or "none"

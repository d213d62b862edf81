"""The name that was probably meant: the same in another case, or a near one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from dni_deploy.errors import escape_name

MAX_COMPARED_CHARACTERS = 60
"""Longer texts are no misspelled names, and comparing them takes time that grows with the square of their length."""


def match_case(name: str, names: Iterable[str]) -> list[str]:
    """Finds a name among others: itself if it is there, else those that differ from it by upper and lower case alone."""
    candidates = list(names)
    if name in candidates:
        return [name]
    return [candidate for candidate in candidates if candidate.casefold() == name.casefold()]


def suggest_name(name: str, names: Iterable[str], *, likeness: float = 0.6) -> str:
    """Asks whether a near name was meant.

    Args:
        name: A name that is not known.
        names: The known ones.
        likeness: How like they have to be, 0 to 1; names with long common parts need more.

    Returns:
        "; did you mean 'x'?", to end a sentence with in place of its full stop; "." where no name is near.
    """
    known = {
        candidate.casefold(): candidate for candidate in reversed(list(names)) if len(candidate) <= MAX_COMPARED_CHARACTERS
    }
    near = get_close_matches(name.casefold(), known, n=1, cutoff=likeness) if len(name) <= MAX_COMPARED_CHARACTERS else []
    return f"; did you mean {escape_name(known[near[0]])!r}?" if near else "."

"""How a long operation reports its progress, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

Progress = Callable[[int, int, str], None]
"""Called as progress(done, total, what): steps done so far, number of all steps, and a few words on the step that begins."""

OptionalProgress = Union[Progress, None]


def report_progress(progress: OptionalProgress, done: int, total: int, what: str) -> None:
    """Calls `progress`, if it is not None; the arguments are those of Progress."""
    if progress is not None:
        progress(done, total, what)

"""Progress: how a long verb tells how far it is, without knowing who looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

Progress = Callable[[int, int, str], None]
"""Called as progress(done, total, what): whole steps done so far, all steps, and a few words on the step that begins."""

OptionalProgress = Union[Progress, None]


def report_progress(progress: OptionalProgress, done: int, total: int, what: str) -> None:
    """Call `progress` where there is one."""
    if progress is not None:
        progress(done, total, what)

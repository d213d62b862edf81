"""When a job stops because units fail: more than are allowed, or all of them in the same way."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.jobs.unit import UnitRow
from dni_deploy.utils.format_count import format_count

ALIKE_FAILURES = 50
"""A job whose first units, this many, all fail with one sentence stops with it: something else than the units is wrong."""


@dataclass(frozen=True)
class MaxFailures:
    """How many units may fail.

    Attributes:
        text: As a user gives it.
        count: A number of units, or None.
        percent: A part of all units, or None.
    """

    text: str
    count: int | None = None
    percent: float | None = None

    @classmethod
    def parse(cls, text: str | int) -> MaxFailures:
        """Parses "N" or "P%".

        Raises:
            UsageError: It is neither.
        """
        match = re.fullmatch(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,9})?)\s*%", str(text).strip(), re.ASCII)
        if match is None or (match[2] and float(match[2]) > 100):
            raise UsageError(
                f"--max-failures {escape_name(text, 60)} is neither a number, such as 20, nor a part, such as 5%. Nothing was written."
            )
        return cls(str(text).strip(), int(match[1]) if match[1] else None, float(match[2]) if match[2] else None)

    def to_count(self, total: int) -> int:
        """Returns how many of so many units may fail."""
        return self.count if self.count is not None else int(total * (self.percent or 0.0) / 100)


class FailureGuard:
    """Counts failures, and says when a job is to stop."""

    def __init__(self, max_failures: MaxFailures | None, total: int, *, is_resumed: bool = False) -> None:
        """Begins to count.

        Args:
            max_failures: How many may fail; None: any number that are not all alike.
            total: Number of units.
            is_resumed: Some units are done already, so that no setting can be wrong.
        """
        self._max_failures, self._total = max_failures, total
        self._failed = 0
        self._sentence: str | None = None
        self._may_be_alike = max_failures is None and not is_resumed

    def count(self, row: UnitRow, source: str = "") -> str | None:
        """Counts a row.

        Args:
            row: The row.
            source: What the unit was made of: sentences that differ only in its name are one.

        Returns:
            Why the job is to stop, a clause; None where it goes on.
        """
        if row.error is None:
            self._may_be_alike = False
            return None
        self._failed += 1
        if self._max_failures is not None and self._failed > self._max_failures.to_count(self._total):
            return f"more than --max-failures {self._max_failures.text} allows"
        sentence = _remove_names(row.error.message, (source, row.unit))
        self._may_be_alike = self._may_be_alike and self._sentence in (None, sentence)
        self._sentence = sentence
        if self._may_be_alike and self._failed >= ALIKE_FAILURES:
            return f"the first {format_count(self._failed, 'unit')} failed with one sentence (--max-failures 100% goes on)"
        return None


def _remove_names(message: str, paths: tuple[str, ...]) -> str:
    """Removes the names of a unit, and numbers, from a message."""
    names = {escape_name(name) for path in paths for name in (path, posixpath.basename(path.replace("\\", "/"))) if name}
    for name in sorted(names, key=len, reverse=True):
        message = message.replace(name, "")
    return re.sub(r"\d+", "", message)

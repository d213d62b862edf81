"""What reading one file may cost, whatever is in it: one budget goes with the file through every reader."""

from __future__ import annotations

import time

from dni_deploy.errors import LimitError

MAX_STEPS = 2_000_000
"""Steps of all pickles of a file, some 4 us each. About 60 per tensor are usual, so this is beyond 30,000 tensors."""

MAX_READ_SECONDS = 30.0
"""Time of this thread on the processor; MAX_STEPS usual ones take less than half of it."""

CLOCK_STEPS = 4096
"""Steps between two looks at the clock."""


class ReadBudget:
    """Steps and seconds that are left for one file."""

    def __init__(self, where: str) -> None:
        """Starts the clock.

        Args:
            where: The file as the user knows it, already safe to print.
        """
        self._where = where
        self._steps = self._next_look = 0
        self._deadline = time.thread_time() + MAX_READ_SECONDS

    def spend(self, steps: int) -> None:
        """Takes steps, one for each item that is looked at or copied.

        Raises:
            LimitError: So many are not left, or the time is over.
        """
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise LimitError(f"{self._where} has pickles of more than {MAX_STEPS:,} steps; no checkpoint needs that many.")
        if self._steps >= self._next_look:
            self._next_look = self._steps + CLOCK_STEPS
            if time.thread_time() > self._deadline:
                raise LimitError(
                    f"{self._where} takes more than {MAX_READ_SECONDS:.0f} seconds to read; no checkpoint needs that."
                )

"""A pool whose rows come last unit first, as those of several workers may."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dni_deploy.jobs.unit import UnitRow


class ReversedPool:
    """Does units in one worker of this process and yields their rows in the opposite order; keeps the number of rows."""

    def __init__(self, factory: Any, processes: int) -> None:
        self.processes = processes
        self._worker = factory.open_worker()

    def run_units(self, units: Iterable[Any]) -> Iterator[UnitRow]:
        yield from reversed(list(self._worker.run_units(units)))

    def close(self) -> None:
        self._worker.close()

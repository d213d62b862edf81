"""Several processes of this machine that do units, each with a worker of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Generic, TypeVar

from dni_deploy.errors import EngineError, UsageError
from dni_deploy.jobs.pool import UnitWorker, WorkerFactory
from dni_deploy.jobs.unit import JobUnit, UnitRow

UnitT = TypeVar("UnitT", bound=JobUnit)

MAX_PROCESSES = 61
"""As many as a process of Windows can wait for."""

UNITS_PER_PROCESS = 2
"""Units that are handed out at once for each process: the next one waits there while one is done."""


class LocalPool(Generic[UnitT]):
    """Processes that do units: a `UnitWorker` whose rows come in any order.

    The processes are started anew (spawn), so that none inherits a session of this one; a program that uses this keeps its own
    start under `if __name__ == "__main__"`.
    """

    def __init__(self, factory: WorkerFactory[UnitT], processes: int) -> None:
        """Keeps the arguments; the processes start with the first units.

        Args:
            factory: Opens the worker in each process.
            processes: Number of processes.
        """
        self._processes = processes
        self._executor = ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), initializer=_keep_factory, initargs=(factory,)
        )

    def run_units(self, units: Iterable[UnitT]) -> Iterator[UnitRow]:
        """Does units and yields a row for each, as they end.

        Raises:
            EngineError: A process died.
            DniError: As the worker raises.
        """
        waiting = iter(units)
        running: set[Future[list[UnitRow]]] = set()
        try:
            while True:
                for unit in islice(waiting, UNITS_PER_PROCESS * self._processes - len(running)):
                    running.add(self._executor.submit(_run_unit, unit))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
        except BrokenProcessPool as error:
            raise EngineError(
                "A worker process died; the system's log may say why (often memory). Nothing was written."
            ) from error
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        """Ends the processes; a unit that one of them is doing is finished first."""
        self._executor.shutdown(cancel_futures=True)


def open_pool(factory: WorkerFactory[UnitT], processes: int) -> UnitWorker[UnitT]:
    """Opens what does units: a worker in this process for one, else several processes.

    Args:
        factory: Opens a worker.
        processes: Number of processes, 1 to MAX_PROCESSES.

    Raises:
        UsageError: `processes` is out of range.
        DniError: The worker cannot be opened.
    """
    if not 1 <= processes <= MAX_PROCESSES:
        raise UsageError(f"There are 1 to {MAX_PROCESSES} workers on a machine; got {processes}.")
    return factory.open_worker() if processes == 1 else LocalPool(factory, processes)


_factory: WorkerFactory[Any] | None = None
_worker: UnitWorker[Any] | None = None


def _keep_factory(factory: WorkerFactory[Any]) -> None:
    global _factory
    _factory = factory


def _run_unit(unit: Any) -> list[UnitRow]:
    """Does a unit in a process of the pool, whose worker is opened here so that its errors reach the caller."""
    global _worker
    if _worker is None:
        assert _factory is not None
        _worker = _factory.open_worker()
    return list(_worker.run_units([unit]))

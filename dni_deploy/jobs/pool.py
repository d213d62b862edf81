"""What does units, wherever it runs: a factory that travels to a process, and the worker that it opens there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from dni_deploy.jobs.unit import JobUnit, UnitRow

UnitT_contra = TypeVar("UnitT_contra", bound=JobUnit, contravariant=True)


class UnitWorker(Protocol[UnitT_contra]):
    """Does units in one process, with what is expensive to open: a session."""

    def run_units(self, units: Iterable[UnitT_contra]) -> Iterator[UnitRow]:
        """Does units and yields a row for each, in their order. A unit that fails is a row with its error.

        Raises:
            DniError: Every unit would meet it: the disk is full, the bundle has changed.
        """
        ...

    def close(self) -> None:
        """Frees what the worker holds."""
        ...


class WorkerFactory(Protocol[UnitT_contra]):
    """Paths and options of a worker. It can be pickled, so that it travels; pixels and sessions do not."""

    def open_worker(self) -> UnitWorker[UnitT_contra]:
        """Opens a worker in this process.

        Raises:
            DniError: It cannot be opened here.
        """
        ...

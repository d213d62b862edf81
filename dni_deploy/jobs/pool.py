"""What does units, wherever it runs: a factory that travels to a process, and the worker that it opens there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from dni_deploy.jobs.unit import JobUnit, UnitRow
from dni_deploy.utils.progress import OptionalProgress

UnitT_contra = TypeVar("UnitT_contra", bound=JobUnit, contravariant=True)


@dataclass(frozen=True)
class WorkerDescription:
    """What a worker is, known when it is open. It can be pickled.

    Attributes:
        engine: Name of the engine that it runs.
        engine_reason: Why this engine was chosen.
        identity: What its results depend on besides the job's settings, as JSON: the same in all workers of a job.
    """

    engine: str
    engine_reason: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)


class UnitWorker(Protocol[UnitT_contra]):
    """Does units in one process, with what is expensive to open: a session. Several of them behind one are a worker, too."""

    @property
    def description(self) -> WorkerDescription:
        """What it is."""
        ...

    def run_units(self, units: Sequence[UnitT_contra], progress: OptionalProgress = None) -> Iterator[UnitRow]:
        """Does units and yields a row for each, in their order. A unit that fails is a row with its error.

        Whatever closes the iterator early ends the work; rows of units that were done are in the job's folder, where there is one.

        Args:
            units: The units.
            progress: Called with the number of units that are done or have failed, from any thread, one at a time.

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

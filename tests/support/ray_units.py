"""Units, workers and a cluster for the tests of jobs on Ray: a unit is a file that is written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dni_deploy.errors import BundleError, InputError
from dni_deploy.jobs.unit import UnitResult, UnitRow, WorkerName, run_unit


class Piece(NamedTuple):
    """A unit; its output is a file of this name."""

    id: str


@dataclass(frozen=True)
class PieceFactory:
    """Opens workers that write a file for each unit.

    Attributes:
        folder: Where files are written.
        seconds: Time for a unit.
        killers: Units that kill their process.
        broken: Units that fail.
        is_unusable: No worker can be opened.
        most_openings: Only so many workers can be opened; they are counted in `folder`.
    """

    folder: str
    seconds: float = 0.0
    killers: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    is_unusable: bool = False
    most_openings: int = 1000

    def open_worker(self) -> PieceWorker:
        if self.is_unusable:
            raise BundleError("x.dni is damaged.")
        if self.folder:
            Path(self.folder, f"opened-{os.getpid()}").touch()
            if len(list(Path(self.folder).glob("opened-*"))) > self.most_openings:
                raise BundleError("x.dni has changed.")
        return PieceWorker(self)


class PieceWorker:
    def __init__(self, factory: PieceFactory) -> None:
        self.factory = factory
        self.description = f"pid {os.getpid()}"

    def run_units(self, units: Iterable[Piece]) -> Iterator[UnitRow]:
        for unit in units:
            yield run_unit(unit, self.make_file, WorkerName(str(os.getpid())))

    def make_file(self, unit: Piece) -> UnitResult:
        if unit.id in self.factory.broken:
            raise InputError(f"{unit.id} is damaged.")
        if unit.id in self.factory.killers:
            os._exit(1)
        time.sleep(self.factory.seconds)
        if self.factory.folder:
            Path(self.factory.folder, unit.id).write_text(unit.id)
        return UnitResult((f"threads {os.environ.get('OMP_NUM_THREADS')}",))

    def close(self) -> None:
        pass


def list_pieces(count: int) -> list[Piece]:
    return [Piece(f"p{number:06d}") for number in range(count)]

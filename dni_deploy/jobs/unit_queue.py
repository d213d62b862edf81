"""Which units a worker gets next, and which of them are to blame when it dies. Knows nothing of how workers are run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic

from dni_deploy.errors import InputError, escape_name
from dni_deploy.jobs.unit import UnitError, UnitRow, UnitT

CHUNKS_IN_FLIGHT = 2
"""Chunks that a worker has at once: the one that it does and the next one, so that it never waits."""

MAX_CHUNK_UNITS = 256
TARGET_CHUNK_SECONDS, MIN_CHUNK_SECONDS = 10.0, 1.0
"""Chunks grow up to the first, so that sending them costs nothing and little is lost with a worker; and shrink at the end of the job
to the second, since a worker does the units of a chunk at the same time, as far as it can."""

MAX_GROWTH = 4
"""Of a chunk from one to the next: the first unit may not be like the others."""


@dataclass(frozen=True)
class Chunk(Generic[UnitT]):
    """Units that a worker does one after the other.

    Attributes:
        units: The units.
        worker: Who has them.
        is_suspect: A worker died with them, so that nothing else is with this worker until they are done.
    """

    units: Sequence[UnitT]
    worker: int
    is_suspect: bool = False


@dataclass
class UnitQueue(Generic[UnitT]):
    """Hands units out to workers that may die, and gives every unit exactly one row.

    A worker's death says nothing of what it did: its other chunk was only waiting. So all units of a dead worker are suspects.
    They are done again, each chunk with nothing else in its worker; what kills that worker, too, is halved until one unit is
    left, which is given up after `retries` deaths alone in a worker.

    Attributes:
        units: The units that nobody has had yet.
        retries: Number of deaths, alone in a worker, after which a unit is given up.
        remaining: Number of units that nobody has had yet, if known: the last chunks are then small, so that all workers end
            together.
        worker_count: Number of workers among which the remaining units are divided.
    """

    units: Iterator[UnitT]
    retries: int = 2
    remaining: int | None = None
    worker_count: int = 1
    _suspects: list[Sequence[UnitT]] = field(default_factory=list)
    _chunks: dict[int, list[Chunk[UnitT]]] = field(default_factory=dict)
    _deaths: dict[str, int] = field(default_factory=dict)
    _size: int = 1
    _min_size: int = 1
    _is_exhausted: bool = False

    @property
    def is_done(self) -> bool:
        """Whether every unit has its row, as far as it was asked: a queue that is not yet asked for its last unit is not done."""
        return self._is_exhausted and not self._suspects and not any(self._chunks.values())

    @property
    def has_suspects(self) -> bool:
        """Whether units of a dead worker wait to be done again."""
        return bool(self._suspects)

    def take_chunk(self, worker: int) -> Chunk[UnitT] | None:
        """Returns the next chunk for a worker; None where it has enough, or where there is nothing for it now."""
        held = self._chunks.setdefault(worker, [])
        if len(held) >= CHUNKS_IN_FLIGHT or any(chunk.is_suspect for chunk in held):
            return None
        if self._suspects:  # this worker finishes what it has, and then gets one
            return None if held else self._hand_out(Chunk(self._suspects.pop(), worker, is_suspect=True))
        units = list(islice(self.units, self._choose_size()))
        if not units:
            self._is_exhausted = True
            return None
        if self.remaining is not None:
            self.remaining = max(0, self.remaining - len(units))
        return self._hand_out(Chunk(units, worker))

    def finish_chunk(self, chunk: Chunk[UnitT], rows: Iterable[UnitRow], seconds: float) -> None:
        """Takes note that a chunk is done.

        Args:
            chunk: The chunk.
            rows: Its rows.
            seconds: Time that the worker took for it.

        Raises:
            ValueError: The rows are not those of its units: a bug of the worker.
        """
        self._take_back(chunk)
        if sorted(row.unit for row in rows) != sorted(unit.id for unit in chunk.units):
            raise ValueError("A worker returned other rows than those of the units that it was given.")
        size = len(chunk.units)
        units_per_second = size / max(seconds, 1e-6)
        self._size = max(1, min(int(TARGET_CHUNK_SECONDS * units_per_second), MAX_GROWTH * size, MAX_CHUNK_UNITS))
        self._min_size = max(1, min(int(MIN_CHUNK_SECONDS * units_per_second), self._size))

    def fail_chunk(self, chunk: Chunk[UnitT], worker_name: str, *, is_blamable: bool = True) -> list[UnitRow]:
        """Takes back a chunk whose worker died.

        Args:
            chunk: The chunk.
            worker_name: The worker's, for the row.
            is_blamable: Whether the units may have killed it; not where the whole machine is gone.

        Returns:
            The row of a unit that is given up, if any.
        """
        self._take_back(chunk)
        units = chunk.units
        if not chunk.is_suspect or not is_blamable:
            self._suspects.append(units)
            return []
        if len(units) > 1:
            middle = len(units) // 2
            self._suspects += [units[middle:], units[:middle]]
            return []
        name = units[0].id
        self._deaths[name] = self._deaths.get(name, 0) + 1
        if self._deaths[name] < self.retries:
            self._suspects.append(units)
            return []
        times = "once" if self.retries == 1 else f"{self.retries} times"
        message = f"{escape_name(name)} killed its worker {times}, alone in it: a crash, or more memory than there is."
        return [UnitRow(name, worker_name, error=UnitError(InputError.kind, message, InputError.exit_code))]

    def list_held(self, worker: int) -> list[Chunk[UnitT]]:
        """Lists the chunks that a worker has."""
        return list(self._chunks.get(worker, ()))

    def _hand_out(self, chunk: Chunk[UnitT]) -> Chunk[UnitT]:
        self._chunks[chunk.worker].append(chunk)
        return chunk

    def _take_back(self, chunk: Chunk[UnitT]) -> None:
        held = self._chunks[chunk.worker]
        del held[next(position for position, one in enumerate(held) if one is chunk)]

    def _choose_size(self) -> int:
        if self.remaining is None:
            return self._size
        return max(self._min_size, min(self._size, self.remaining // (self.worker_count * CHUNKS_IN_FLIGHT)))

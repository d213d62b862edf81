"""One unit of a job: unit in, row out. An image, a run of segments of a video: whoever distributes units knows no more of them."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from dni_deploy.errors import ERROR_BY_KIND, DniError


class JobUnit(Protocol):
    """What can be done by itself, in any order and more than once with the same result."""

    @property
    def id(self) -> str:
        """Its name, the same in every process; units are sorted by it."""
        ...


UnitT = TypeVar("UnitT", bound=JobUnit)


@dataclass(frozen=True)
class UnitError:
    """Why a unit failed.

    Attributes:
        kind: The error's fixed name.
        message: Its sentence.
        exit_code: Its exit code.
    """

    kind: str
    message: str
    exit_code: int

    @classmethod
    def from_error(cls, error: DniError) -> UnitError:
        """Describes an error."""
        return cls(error.kind, str(error), error.exit_code)

    def to_error(self) -> DniError:
        """Makes the error again, of its own class; of the base where no class has its name any more."""
        return ERROR_BY_KIND.get(self.kind, DniError)(self.message)


@dataclass(frozen=True)
class UnitRow:
    """What became of one attempt at a unit.

    Attributes:
        unit: The unit's id.
        worker: The process that did it.
        shard: As Shard formats itself; "" without shards.
        seconds: Time it took.
        notes: What a user should know about it, one phrase each.
        error: Why it failed; None where it is done.
        values: What was measured, as JSON values; None for a unit that writes files.
    """

    unit: str
    worker: str
    shard: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    error: UnitError | None = None
    values: Any = None

    def to_json(self) -> dict[str, Any]:
        """Returns the row as it is stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> UnitRow:
        """Reads a stored row.

        Raises:
            KeyError: A field is missing, or TypeError or ValueError: one is none.
        """
        error = fields["error"]
        return cls(
            str(fields["unit"]),
            str(fields["worker"]),
            str(fields["shard"]),
            float(fields["seconds"]),
            tuple(str(note) for note in fields["notes"]),
            None if error is None else UnitError(str(error["kind"]), str(error["message"]), int(error["exit_code"])),
            fields.get("values"),
        )


def make_worker_name() -> str:
    """Returns a name for this process that no other one has: machine, process number and 8 random digits."""
    return f"{platform.node() or 'machine'}-{os.getpid()}-{secrets.token_hex(4)}"


def run_unit(unit: UnitT, work: Callable[[UnitT], Sequence[str]], *, worker: str, shard: str = "") -> UnitRow:
    """Does one unit. An error that is raised on purpose becomes a row, and so travels as data.

    Args:
        unit: The unit.
        work: Does it and returns notes.
        worker: As `make_worker_name` returns it.
        shard: The shard, for the row.

    Returns:
        The row. Ctrl-C and bugs are raised.
    """
    started = time.perf_counter()
    notes: Sequence[str] = ()
    failure = None
    try:
        notes = work(unit)
    except DniError as error:
        failure = UnitError.from_error(error)
    return UnitRow(unit.id, worker, shard, round(time.perf_counter() - started, 3), tuple(notes), failure)

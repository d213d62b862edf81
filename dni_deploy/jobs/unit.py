"""One unit of a job: unit in, row out. An image, a run of segments of a video: whoever distributes units knows no more of them."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from dni_deploy.errors import DniError


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
        exception: The error itself, in the process that raised it.
    """

    kind: str
    message: str
    exit_code: int
    exception: DniError | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_error(cls, error: DniError) -> UnitError:
        """Describes an error."""
        return cls(error.kind, str(error), error.exit_code, error)

    def to_error(self) -> DniError:
        """Returns the error, or one like it where it was raised by another process."""
        if self.exception is not None:
            return self.exception
        kinds = {kind.kind: kind for kind in _list_error_classes(DniError)}
        by_code = {kind.exit_code: kind for kind in DniError.__subclasses__()}
        return kinds.get(self.kind, by_code.get(self.exit_code, DniError))(self.message)

    def to_json(self) -> dict[str, Any]:
        """Returns the error as it is stored."""
        return {"kind": self.kind, "message": self.message, "exit_code": self.exit_code}

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the error itself behind, which another process may not know."""
        return {**self.to_json(), "exception": None}


def _list_error_classes(error_class: type[DniError]) -> Iterator[type[DniError]]:
    for subclass in error_class.__subclasses__():
        yield subclass
        yield from _list_error_classes(subclass)


@dataclass(frozen=True)
class UnitOutput:
    """The file that a unit made.

    Attributes:
        path: Below the job's folder, with slashes.
        size: Bytes.
        sha256: Of its content, in hex.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class UnitResult:
    """What came of a unit that is done.

    Attributes:
        notes: What a user should know about it, one phrase each.
        output: The file that it made, where it is one.
        details: What reports say of it besides, as JSON.
    """

    notes: tuple[str, ...] = ()
    output: UnitOutput | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


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
        output: The file that it made, where it is one.
        details: What reports say of it besides, as JSON.
        engine: Name of the engine that ran.
        machine: The kind of machine, on which the bytes of the output may depend.
        finished: When it was over, in seconds since 1970.
    """

    unit: str
    worker: str
    shard: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    error: UnitError | None = None
    output: UnitOutput | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    engine: str = ""
    machine: str = ""
    finished: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns the row as it is stored: what is empty is left out."""
        stored = {
            **vars(self),
            "error": None if self.error is None else self.error.to_json(),
            "output": None if self.output is None else vars(self.output),
        }
        return {name: value for name, value in stored.items() if value or name in ("unit", "worker")}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> UnitRow:
        """Reads a stored row.

        Raises:
            KeyError: A field is missing, or TypeError or ValueError: one is none.
        """
        error, output = fields.get("error"), fields.get("output")
        return cls(
            str(fields["unit"]),
            str(fields["worker"]),
            str(fields.get("shard", "")),
            float(fields.get("seconds", 0.0)),
            tuple(str(note) for note in fields.get("notes", ())),
            None if error is None else UnitError(str(error["kind"]), str(error["message"]), int(error["exit_code"])),
            None if output is None else UnitOutput(str(output["path"]), int(output["size"]), str(output["sha256"])),
            dict(fields.get("details", {})),
            str(fields.get("engine", "")),
            str(fields.get("machine", "")),
            float(fields.get("finished", 0.0)),
        )


@dataclass(frozen=True)
class WorkerName:
    """What the rows of one worker have in common.

    Attributes:
        worker: As `make_worker_name` returns it.
        shard: As Shard formats itself; "" without shards.
        engine: Name of the engine that it runs.
        machine: The kind of its machine.
    """

    worker: str
    shard: str = ""
    engine: str = ""
    machine: str = ""


def make_worker_name() -> str:
    """Returns a name for this process that no other one has: machine, process number and 8 random digits."""
    return f"{platform.node() or 'machine'}-{os.getpid()}-{secrets.token_hex(4)}"


def run_unit(unit: UnitT, work: Callable[[UnitT], UnitResult], worker: WorkerName) -> UnitRow:
    """Does one unit. An error that is raised on purpose becomes a row, and so travels as data.

    Args:
        unit: The unit.
        work: Does it.
        worker: Who does it.

    Returns:
        The row. Ctrl-C and bugs are raised.
    """
    started = time.perf_counter()
    result, failure = UnitResult(), None
    try:
        result = work(unit)
    except DniError as error:
        failure = UnitError.from_error(error)
    row = UnitRow(unit.id, **vars(worker), error=failure, **vars(result))
    return replace(row, seconds=round(time.perf_counter() - started, 3), finished=round(time.time(), 3))

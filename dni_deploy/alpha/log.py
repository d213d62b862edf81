"""AlphaLog: the side file of a performance, a line for each frame with the alpha and the generation it was made with.

JSON Lines: a header, then {"frame": 0, "seconds": 0.0, "generation": 1, "shares": [0.35, 0.65]} and so on. Numbers are written
so that they are read back bit for bit: a performance that was live is rendered again exactly.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.timeline import AlphaTimeline, frozen
from dni_deploy.errors import CoefficientsError, InputError, LimitError, MismatchError, UsageError, shown
from dni_deploy.utils.atomic_write import FULL

FORMAT = "dni-deploy alpha log"
SCHEMA = 1
LINE_LIMIT = 1 << 16
FRAME_LIMIT = 4_000_000
"""18 hours at 60 frames a second."""


class Row(NamedTuple):
    """One frame: its number from 0, its time (NaN if it had none), and what it was made with."""

    frame: int
    seconds: float
    generation: int
    coefficients: Coefficients


class AlphaLog:
    """Writes the side file line by line; each line is with the system when `write` returns, on the disk after `close`.

    with AlphaLog(path, session.members, bundle.digest) as log:
        log.write(frame, seconds, stamped.generation, stamped.coefficients)
    """

    def __init__(self, path: str | os.PathLike[str], members: Sequence[str], bundle: str = "", *, force: bool = False) -> None:
        """bundle: its digest. Raises UsageError (it exists and `force` is off), InputError, LimitError."""
        self.path, self.members = os.fspath(path), tuple(members)
        self._last = -1
        self._stream: BinaryIO | None = self._opened("wb" if force else "xb")
        self._put({"format": FORMAT, "schema": SCHEMA, "members": list(self.members), "bundle": bundle})

    @classmethod
    def resume(cls, path: str | os.PathLike[str], members: Sequence[str], bundle: str = "", *, frames: int) -> AlphaLog:
        """Go on with a log that was cut off: lines of frames before `frames` stay, the rest is dropped.

        A file that is not there is begun anew. Raises InputError (it is no log), MismatchError (other members, another bundle).
        """
        if not os.path.lexists(path):
            return cls(path, members, bundle)
        header, end, last = _Reader(path), 0, -1
        if header.members != tuple(members) or (bundle and header.bundle != bundle):
            raise MismatchError(f"The alpha log {shown(path)} is of other members or another bundle; give it another name.")
        end = header.end
        for row in header.rows():
            if row.frame >= frames:
                break
            end, last = header.end, row.frame
        log = cls.__new__(cls)
        log.path, log.members, log._last = os.fspath(path), tuple(members), last
        log._stream = log._opened("r+b")
        log._stream.truncate(end)
        log._stream.seek(end)
        return log

    @staticmethod
    def read(path: str | os.PathLike[str], members: Sequence[str]) -> AlphaTimeline:
        """The performance as an AlphaSource: frame by frame exactly the coefficients of the log.

        A frame that the log lacks has the alpha of the one before it. A last line that was cut is left out.
        Raises InputError (missing, damaged, no frame; names the line), MismatchError (other members), LimitError.
        """
        reader = _Reader(path)
        if sorted(reader.members) != sorted(members):
            raise MismatchError(
                f"The alpha log {shown(path)} is for the members {', '.join(map(shown, reader.members))}; "
                f"this family has {', '.join(map(shown, members))}."
            )
        order = [reader.members.index(name) for name in members]
        frames: list[int] = []
        shares: list[tuple[float, ...]] = []
        for row in reader.rows():
            frames.append(row.frame)
            shares.append(tuple(row.coefficients.shares[place] for place in order))
        if not frames:
            raise InputError(f"The alpha log {shown(path)} holds no frame.")
        return AlphaTimeline(tuple(members), "frames", frozen(frames), frozen(shares), "hold")

    @staticmethod
    def rows(path: str | os.PathLike[str]) -> Iterator[Row]:
        """The log line by line, in the log's own order of members. Raises as `read` does."""
        return _Reader(path).rows()

    def write(self, frame: int, seconds: float, generation: int, coefficients: Coefficients) -> None:
        """One frame; frames come in rising order. Raises UsageError, LimitError (no room), InputError (closed, a failing disk)."""
        if frame <= self._last:
            raise UsageError(f"The alpha log has frame {self._last} already; got frame {frame}.")
        if coefficients.members != self.members:
            raise UsageError(f"The alpha log is for {', '.join(map(shown, self.members))}; got {coefficients}.")
        time = float(seconds)
        self._put(
            {
                "frame": int(frame),
                "seconds": time if math.isfinite(time) else None,
                "generation": int(generation),
                "shares": [float(share) for share in coefficients.shares],
            }
        )
        self._last = frame

    def close(self) -> None:
        """Flush to the disk. Calling it again does nothing."""
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                with stream:
                    os.fsync(stream.fileno())
            except OSError as error:
                raise self._error(error) from error

    def __enter__(self) -> AlphaLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _opened(self, mode: str) -> BinaryIO:
        try:
            stream = open(self.path, mode, buffering=0)  # noqa: SIM115
        except FileExistsError:
            raise UsageError(f"{shown(self.path)} exists; give --force to replace it. Nothing was written.") from None
        except (OSError, ValueError) as error:
            raise self._error(error) from error
        return stream  # type: ignore[return-value]

    def _put(self, fields: dict[str, Any]) -> None:
        if self._stream is None:
            raise InputError(f"The alpha log {shown(self.path)} is closed.")
        rest = memoryview(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> InputError | LimitError:
        kind = LimitError if getattr(error, "errno", None) in FULL else InputError
        reason = getattr(error, "strerror", None) or error
        return kind(f"The alpha log {shown(self.path)} could not be written ({shown(reason)}); lines before this are in it.")


class _Reader:
    """The header at once, the rows as they are asked for. `end`: where the last whole line that was read ends, in bytes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.end = 0
        try:
            if not os.path.isfile(path):
                raise InputError(
                    f"The alpha log {shown(path)} {'is not a file' if os.path.lexists(path) else 'does not exist'}."
                )
            with open(path, "rb") as stream:
                line = stream.readline(LINE_LIMIT)
        except (OSError, ValueError) as error:
            raise error if isinstance(error, InputError) else self._unreadable(error) from error
        header = _loaded(line) if line.endswith(b"\n") else None
        if not isinstance(header, dict) or header.get("format") != FORMAT or not _names(header.get("members")):
            raise InputError(f"{shown(path)} is not an alpha log: its first line is not the header of one.")
        if header.get("schema") != SCHEMA:
            raise InputError(
                f"The alpha log {shown(path)} has schema {shown(header.get('schema'), 40)}; this version reads {SCHEMA}."
            )
        members = header["members"]
        self.members = tuple(members)
        self.bundle = str(header.get("bundle", ""))
        self.end = len(line)

    def rows(self) -> Iterator[Row]:
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self.end)
                last, number = -1, 1
                while line := stream.readline(LINE_LIMIT):
                    number += 1
                    if number > FRAME_LIMIT + 1:
                        raise LimitError(f"The alpha log {shown(self.path)} has more than {FRAME_LIMIT:,} frames.")
                    try:
                        if not line.endswith(b"\n"):
                            raise UsageError("it is cut")
                        row = self._row(_loaded(line), last)
                    except UsageError as error:
                        if not stream.readline(1):
                            return  # the machine stopped while it was written
                        raise InputError(f"The alpha log {shown(self.path)}, line {number}: {error}.") from None
                    last = row.frame
                    self.end += len(line)
                    yield row
        except OSError as error:
            raise self._unreadable(error) from error

    def _row(self, fields: object, last: int) -> Row:
        if not isinstance(fields, dict):
            raise UsageError("it is not a frame")
        frame, generation, seconds = _whole(fields, "frame"), _whole(fields, "generation"), fields.get("seconds")
        if seconds is not None and type(seconds) not in (int, float):
            raise UsageError("its time is not a number")
        if frame <= last:
            raise UsageError(f"frame {frame} comes after frame {last}")
        shares = fields.get("shares")
        if not isinstance(shares, list) or not all(type(share) in (int, float) for share in shares):
            raise UsageError("its shares are not numbers")
        try:
            # What an extrapolating session was given is checked again by the one that gets it.
            coefficients = Coefficients.parse(shares, self.members, extrapolate=True)
        except CoefficientsError as error:
            raise UsageError(str(error).rstrip(".")) from None
        return Row(frame, math.nan if seconds is None else float(seconds), generation, coefficients)

    def _unreadable(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or error
        return InputError(f"The alpha log {shown(self.path)} cannot be read ({shown(reason)}).")


def _names(members: object) -> bool:
    return isinstance(members, list) and bool(members) and all(isinstance(name, str) for name in members)


def _whole(fields: dict[str, Any], key: str) -> int:
    value = fields.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return value
    raise UsageError(f"its {key} is not a whole number")


def _loaded(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None

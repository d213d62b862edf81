"""Log of a performance: a line for each frame, with the alpha and the generation it was rendered with.

JSON Lines: a header, then {"frame": 0, "seconds": 0.0, "generation": 1, "shares": [0.35, 0.65]} and so on. Numbers are written
so that they are read back bit for bit: a performance that was live is rendered again exactly.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.timeline import AlphaTimeline, make_read_only_array
from dni_deploy.errors import CoefficientsError, InputError, LimitError, MismatchError, UsageError, escape_name
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS, sync_folder
from dni_deploy.utils.text_file import open_file

ALPHA_LOG_FORMAT = "dni-deploy alpha log"
ALPHA_LOG_SCHEMA_VERSION = 1
MAX_LINE_BYTES = 1 << 16
MAX_LOG_FRAMES = 4_000_000
"""18 hours at 60 frames a second."""


class AlphaLogEntry(NamedTuple):
    """One frame of a log.

    Attributes:
        frame: Number of the frame, from 0.
        seconds: Its time in seconds from the start; NaN if it had none.
        generation: Number of changes of the weights before it.
        coefficients: What it was rendered with.
    """

    frame: int
    seconds: float
    generation: int
    coefficients: Coefficients


class AlphaLog:
    """Writes a log line by line; a line is with the operating system when `write` returns, and on the disk after `close`.

    Attributes:
        path: The file.
        members: Names of the members, in the order of the log.

    Example:
        with AlphaLog(path, session.members, bundle.digest) as log:
            log.write(frame, seconds, rendered.generation, rendered.coefficients)
    """

    def __init__(self, path: str | os.PathLike[str], members: Sequence[str], bundle: str = "", *, force: bool = False) -> None:
        """Creates the file and writes the header.

        Args:
            path: The file.
            members: Names of the members.
            bundle: Digest of the bundle.
            force: Whether a file that exists is replaced.

        Raises:
            UsageError: The file exists and `force` is off.
            InputError: It cannot be written.
            LimitError: There is no room for it.
        """
        self.path, self.members = os.fspath(path), tuple(members)
        self._last_frame = -1
        self._stream: BinaryIO | None = self._open_log("wb" if force else "xb")
        self._write_line(
            {"format": ALPHA_LOG_FORMAT, "schema": ALPHA_LOG_SCHEMA_VERSION, "members": list(self.members), "bundle": bundle}
        )

    @classmethod
    def resume(cls, path: str | os.PathLike[str], members: Sequence[str], bundle: str = "", *, frames: int) -> AlphaLog:
        """Continues a log that was cut off.

        Args:
            path: The file; one that does not exist is created.
            members: Names of the members.
            bundle: Digest of the bundle.
            frames: Lines of frames before this one stay, the rest is dropped.

        Returns:
            The log, opened for writing.

        Raises:
            InputError: The file is no log.
            MismatchError: It is of other members or of another bundle.
        """
        if not os.path.lexists(path):
            return cls(path, members, bundle)
        reader = _LogReader(path)
        if reader.members != tuple(members) or (bundle and reader.bundle != bundle):
            raise MismatchError(
                f"The alpha log {escape_name(path)} is of other members or another bundle; give it another name."
            )
        end_offset, last_frame = reader.end_offset, -1
        for entry in reader.read_entries():
            if entry.frame >= frames:
                break
            end_offset, last_frame = reader.end_offset, entry.frame
        log = cls.__new__(cls)
        log.path, log.members, log._last_frame = os.fspath(path), tuple(members), last_frame
        log._stream = log._open_log("r+b")
        log._stream.truncate(end_offset)
        log._stream.seek(end_offset)
        return log

    @staticmethod
    def read(path: str | os.PathLike[str], members: Sequence[str]) -> AlphaTimeline:
        """Reads a log as alpha over time: each frame has exactly the coefficients of the log.

        A frame that the log lacks has the alpha of the one before it. A last line that was cut off is left out.

        Args:
            path: The file.
            members: Names of the family's members, in any order.

        Returns:
            A timeline in frames.

        Raises:
            InputError: The file is missing, damaged or holds no frame; the message names the line.
            MismatchError: It is of other members.
            LimitError: It has more than MAX_LOG_FRAMES.
        """
        reader = _LogReader(path)
        if sorted(reader.members) != sorted(members):
            raise MismatchError(
                f"The alpha log {escape_name(path)} is for the members {', '.join(map(escape_name, reader.members))}; "
                f"this family has {', '.join(map(escape_name, members))}."
            )
        order = [reader.members.index(name) for name in members]
        frames: list[int] = []
        rows: list[tuple[float, ...]] = []
        for entry in reader.read_entries():
            frames.append(entry.frame)
            rows.append(tuple(entry.coefficients.values[column] for column in order))
        if not frames:
            raise InputError(f"The alpha log {escape_name(path)} holds no frame.")
        return AlphaTimeline(tuple(members), "frames", make_read_only_array(frames), make_read_only_array(rows), "hold")

    @staticmethod
    def read_entries(path: str | os.PathLike[str]) -> Iterator[AlphaLogEntry]:
        """Reads a log line by line, in its own order of members; errors are those of `read`."""
        return _LogReader(path).read_entries()

    def write(self, frame: int, seconds: float, generation: int, coefficients: Coefficients) -> None:
        """Writes the line of one frame.

        Args:
            frame: Number of the frame; higher than that of the line before.
            seconds: Its time in seconds from the start, or NaN.
            generation: Number of changes of the weights before it.
            coefficients: What it was rendered with.

        Raises:
            UsageError: The frame is not later than the last one, or the coefficients are those of other members.
            LimitError: There is no room for it.
            InputError: The log is closed, or the disk fails.
        """
        if frame <= self._last_frame:
            raise UsageError(f"The alpha log has frame {self._last_frame} already; got frame {frame}.")
        if coefficients.members != self.members:
            raise UsageError(f"The alpha log is for {', '.join(map(escape_name, self.members))}; got {coefficients}.")
        time = float(seconds)
        self._write_line(
            {
                "frame": int(frame),
                "seconds": time if math.isfinite(time) else None,
                "generation": int(generation),
                "shares": [float(value) for value in coefficients.values],
            }
        )
        self._last_frame = frame

    def close(self) -> None:
        """Flushes the log to the disk and closes it. Calling it again does nothing."""
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                with stream:
                    os.fsync(stream.fileno())
                sync_folder(Path(self.path).parent)
            except OSError as error:
                raise self._write_error(error) from error

    def __enter__(self) -> AlphaLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open_log(self, mode: str) -> BinaryIO:
        try:
            stream = open(self.path, mode, buffering=0)  # noqa: SIM115
        except FileExistsError:
            raise UsageError(f"{escape_name(self.path)} exists; give --force to replace it. Nothing was written.") from None
        except (OSError, ValueError) as error:
            raise self._write_error(error) from error
        return stream  # type: ignore[return-value]

    def _write_line(self, fields: dict[str, Any]) -> None:
        if self._stream is None:
            raise InputError(f"The alpha log {escape_name(self.path)} is closed.")
        rest = memoryview(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
        except OSError as error:
            raise self._write_error(error) from error

    def _write_error(self, error: Exception) -> InputError | LimitError:
        kind = LimitError if getattr(error, "errno", None) in DISK_FULL_ERRNOS else InputError
        reason = getattr(error, "strerror", None) or error
        return kind(
            f"The alpha log {escape_name(self.path)} could not be written ({escape_name(reason)}); lines before this are in it."
        )


class _LogReader:
    """Reads the header when it is made, and the entries one by one. `end_offset`: end of the last whole line that was read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        with open_file(path, "alpha log") as stream:
            line = stream.readline(MAX_LINE_BYTES)
        header = _parse_line(line) if line.endswith(b"\n") else None
        if not isinstance(header, dict) or header.get("format") != ALPHA_LOG_FORMAT or not _is_name_list(header.get("members")):
            raise InputError(f"{escape_name(path)} is not an alpha log: its first line is not the header of one.")
        if header.get("schema") != ALPHA_LOG_SCHEMA_VERSION:
            schema = escape_name(header.get("schema"), 40)
            raise InputError(
                f"The alpha log {escape_name(path)} has schema {schema}; this version reads {ALPHA_LOG_SCHEMA_VERSION}."
            )
        self.members = tuple(header["members"])
        self.bundle = str(header.get("bundle", ""))
        self.end_offset = len(line)

    def read_entries(self) -> Iterator[AlphaLogEntry]:
        with open_file(self.path, "alpha log") as stream:
            stream.seek(self.end_offset)
            last, number = -1, 1
            while line := stream.readline(MAX_LINE_BYTES):
                number += 1
                if number > MAX_LOG_FRAMES + 1:
                    raise LimitError(f"The alpha log {escape_name(self.path)} has more than {MAX_LOG_FRAMES:,} frames.")
                try:
                    if not line.endswith(b"\n"):
                        raise UsageError("it is cut")
                    entry = self._parse_entry(_parse_line(line), last)
                except UsageError as error:
                    if not stream.readline(1):
                        return  # the process stopped while it was written
                    raise InputError(f"The alpha log {escape_name(self.path)}, line {number}: {error}.") from None
                last = entry.frame
                self.end_offset += len(line)
                yield entry

    def _parse_entry(self, fields: object, last: int) -> AlphaLogEntry:
        if not isinstance(fields, dict):
            raise UsageError("it is not a frame")
        frame, generation = _require_whole_number(fields, "frame"), _require_whole_number(fields, "generation")
        seconds, values = fields.get("seconds"), fields.get("shares")
        if seconds is not None and type(seconds) not in (int, float):
            raise UsageError("its time is not a number")
        if frame <= last:
            raise UsageError(f"frame {frame} comes after frame {last}")
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            raise UsageError("its shares are not numbers")
        try:
            # Whether extrapolation is allowed is checked by the session that gets the coefficients.
            coefficients = Coefficients.parse(values, self.members, extrapolate=True)
        except CoefficientsError as error:
            raise UsageError(str(error).rstrip(".")) from None
        return AlphaLogEntry(frame, math.nan if seconds is None else float(seconds), generation, coefficients)


def _is_name_list(members: object) -> bool:
    return isinstance(members, list) and bool(members) and all(isinstance(name, str) for name in members)


def _require_whole_number(fields: dict[str, Any], key: str) -> int:
    value = fields.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return value
    raise UsageError(f"its {key} is not a whole number")


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None

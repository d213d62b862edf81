"""Stream: whole reads and whole writes on a pipe, and the two ends of this process."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from dni_deploy.errors import DniError, InputError, LimitError, UsageError
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS

CLOSED_PIPE_ERRNOS = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN})
"""What the system says when whoever read a pipe or socket went away."""


class ReadableFile(Protocol):
    """A binary file to read from, buffered or not; `fileno` is asked for only where it does not block."""

    def fileno(self) -> int: ...

    def readinto(self, buffer: Any, /) -> int | None: ...


class WritableFile(Protocol):
    """A binary file to write to, buffered or not; `fileno` as above."""

    def fileno(self) -> int: ...

    def write(self, data: Any, /) -> int | None: ...


class OutputClosedError(Exception):
    """Whoever read the output went away; not an error, and never seen outside this package."""


def read_whole(source: ReadableFile, buffer: Any) -> int:
    """Fill a buffer (anything with a memory) from the source; returns how many bytes came before the end, all of them if equal.

    Raises InputError where reading fails.
    """
    view = memoryview(buffer).cast("B")
    done = 0
    while done < len(view):
        try:
            count = source.readinto(view[done:])
        except (OSError, ValueError) as error:  # ValueError: a file object that was closed
            raise InputError(f"Reading the video failed after {done} bytes of a frame ({_format_reason(error)}).") from error
        if count is None:  # a pipe that somebody has made non-blocking
            select.select([source], [], [])
        elif count == 0:
            break
        else:
            done += count
    return done


def read_line(source: ReadableFile, limit: int, start: bytes = b"") -> bytes:
    """Bytes up to and with the next line end; without one where the stream ends or `limit` bytes have come.

    start: what of the line has been read already. Byte by byte: nothing behind the line is taken from the pipe.
    """
    line = bytearray(start)
    byte = bytearray(1)
    while not line.endswith(b"\n") and len(line) < limit and read_whole(source, byte):
        line += byte
    return bytes(line)


def write_whole(sink: WritableFile, data: Any) -> None:
    """Write all of it. Raises Downstream where the reader went away, LimitError (no room), InputError (another failure)."""
    view = memoryview(data).cast("B")
    try:
        while view:
            count = sink.write(view)
            if count is None:
                select.select([], [sink], [])
            else:
                view = view[count:]
    except OSError as error:
        raise _make_write_error(error) from error


def flush(sink: Any) -> None:
    """Flush where the file has a buffer. Raises as write_whole does."""
    try:
        if hasattr(sink, "flush"):
            sink.flush()
    except OSError as error:
        raise _make_write_error(error) from error


def check_output_open(sink: WritableFile) -> None:
    """Raises Downstream where the reader of a pipe or socket has gone away; what is neither of them has none."""
    try:
        look = select.poll()
        look.register(sink.fileno(), 0)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in look.poll(0)):
            raise OutputClosedError
    except (OSError, AttributeError):  # no descriptor behind it; or Windows, where there is no poll
        return


def _make_write_error(error: OSError) -> Exception:
    if error.errno in CLOSED_PIPE_ERRNOS:
        return OutputClosedError()
    kind: type[DniError] = LimitError if error.errno in DISK_FULL_ERRNOS else InputError
    return kind(f"Writing the video failed ({_format_reason(error)}); the frames before it are written.")


def _format_reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


@contextmanager
def standard_streams() -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """stdin and stdout as unbuffered binary files, for video alone.

    Within the block, whatever else is printed to stdout, by a C library too, goes to stderr. Unbuffered: a thread that waits
    in a read holds no lock which the interpreter would want when it ends.
    Raises UsageError where one of them is a terminal or closed.
    """
    for descriptor, name, neighbour in ((0, "stdin", "Pipe video in"), (1, "stdout", "Pipe it on, or into a file")):
        try:
            os.fstat(descriptor)
        except OSError:
            raise UsageError(f"{name} is closed, and a filter needs it. {neighbour}.") from None
        if os.isatty(descriptor):
            raise UsageError(f"{name} is a terminal; raw video belongs in a pipe. {neighbour}.")
    if sys.stdout is not None:
        sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(_stderr_descriptor(), 1)
        with io.FileIO(0, "rb", closefd=False) as source, io.FileIO(kept, "wb", closefd=False) as sink:
            yield source, sink
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _stderr_descriptor() -> int:
    """The descriptor of stderr, or of nothing at all where it is closed."""
    try:
        os.fstat(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
    return 2

"""Whole reads from a pipe and whole writes into one, and the two ends of this process."""

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


def find_closed_pipe_errnos(system: str) -> frozenset[int]:
    """Returns what a system, by its os.name, says where the reader of a pipe or socket has closed it."""
    common = {errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN}
    return frozenset(common | {errno.EINVAL}) if system == "nt" else frozenset(common)


CLOSED_PIPE_ERRNOS = find_closed_pipe_errnos(os.name)


class ReadableFile(Protocol):
    """A binary file to read from, buffered or not."""

    def fileno(self) -> int:
        """Returns the descriptor; only called where a read would block on a file that does not."""
        ...

    def readinto(self, buffer: Any, /) -> int | None:
        """Reads into a buffer, as io.RawIOBase does."""
        ...


class WritableFile(Protocol):
    """A binary file to write to, buffered or not."""

    def fileno(self) -> int:
        """Returns the descriptor; called where a write would block on a file that does not, and to see whether it is open."""
        ...

    def write(self, data: Any, /) -> int | None:
        """Writes some of the data, as io.RawIOBase does."""
        ...


class OutputClosedError(Exception):
    """The reader of the output closed it. It is no error, and users never see it."""


def read_whole(source: ReadableFile, buffer: Any) -> int:
    """Fills a buffer from the source.

    Args:
        source: The file.
        buffer: Any object with writable memory.

    Returns:
        Number of bytes that came; fewer than the buffer holds only at the end of the stream.

    Raises:
        InputError: Reading failed.
    """
    view = memoryview(buffer).cast("B")
    done = 0
    while done < len(view):
        try:
            count = source.readinto(view[done:])
        except (OSError, ValueError) as error:  # ValueError: a file object that was closed
            raise InputError(f"Reading the video failed after {done} bytes of a frame ({_format_reason(error)}).") from error
        if count is None:  # a pipe that another program has made non-blocking
            select.select([source], [], [])
        elif count == 0:
            break
        else:
            done += count
    return done


def read_line(source: ReadableFile, limit: int, start: bytes = b"") -> bytes:
    """Reads a line byte by byte, so that nothing behind it is taken from the pipe.

    Args:
        source: The file.
        limit: Most bytes of a line.
        start: What of the line has been read already.

    Returns:
        The bytes up to and with the line end; without one where the stream ends or `limit` bytes have come.
    """
    line = bytearray(start)
    byte = bytearray(1)
    while not line.endswith(b"\n") and len(line) < limit and read_whole(source, byte):
        line += byte
    return bytes(line)


def write_whole(sink: WritableFile, data: Any) -> None:
    """Writes all data, and flushes the file where it has a buffer.

    Args:
        sink: The file.
        data: Any object with contiguous memory.

    Raises:
        OutputClosedError: The reader of the pipe closed it.
        LimitError: There is no room.
        InputError: Writing failed for another reason.
    """
    view = memoryview(data).cast("B")
    try:
        while view:
            count = sink.write(view)
            if count is None:
                select.select([], [sink], [])
            else:
                view = view[count:]
        if hasattr(sink, "flush"):
            sink.flush()
    except OSError as error:
        if error.errno in CLOSED_PIPE_ERRNOS:
            raise OutputClosedError from error
        kind: type[DniError] = LimitError if error.errno in DISK_FULL_ERRNOS else InputError
        raise kind(f"Writing the video failed ({_format_reason(error)}); the frames before it are written.") from error


def check_output_open(sink: WritableFile) -> None:
    """Checks that the output is still read. Files that are neither pipe nor socket have no reader to lose.

    Raises:
        OutputClosedError: The reader of a pipe or socket closed it.
    """
    try:
        poll = select.poll()
        poll.register(sink.fileno(), 0)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            raise OutputClosedError
    except (OSError, AttributeError):  # no descriptor behind it; or Windows, where there is no poll
        return


def _format_reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


@contextmanager
def standard_streams() -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """Opens stdin and stdout as unbuffered binary files, for video alone.

    Within the block, whatever else is printed to stdout, also by a C library, goes to stderr. The files are unbuffered
    because a thread that waits in a buffered read holds a lock which the interpreter needs when it ends.

    Yields:
        The two files.

    Raises:
        UsageError: One of them is a terminal or closed.
    """
    for descriptor, name, advice in ((0, "stdin", "Pipe video in"), (1, "stdout", "Pipe it on, or into a file")):
        # A stream that was closed when Python began is None; its descriptor may be that of another file by now.
        if getattr(sys, f"__{name}__") is None:
            raise UsageError(f"{name} is closed, and a filter needs it. {advice}.")
        if os.isatty(descriptor):
            raise UsageError(f"{name} is a terminal; raw video belongs in a pipe. {advice}.")
    if sys.stdout is not None:
        sys.stdout.flush()
    video_descriptor = os.dup(1)
    try:
        os.dup2(_stderr_descriptor(), 1)
        with io.FileIO(0, "rb", closefd=False) as source, io.FileIO(video_descriptor, "wb", closefd=False) as sink:
            yield source, sink
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.dup2(video_descriptor, 1)
        os.close(video_descriptor)


def _stderr_descriptor() -> int:
    """Returns the descriptor of stderr, or one of nothing at all where it is closed."""
    try:
        os.fstat(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
    return 2

"""Pipes: complete reads and writes through files with short reads and writes, and a reader that closes its end."""

from __future__ import annotations

import errno
import io
import os
import threading
from typing import Any

import pytest

from dni_deploy.errors import InputError, LimitError
from dni_deploy.video_io import pipe
from dni_deploy.video_io.pipe import OutputClosedError, check_output_open, read_line, read_whole, write_whole


class Dribble:
    """Returns at most 3 bytes per read and accepts at most 2 per write."""

    def __init__(self, data: bytes = b"") -> None:
        self.source, self.taken = io.BytesIO(data), bytearray()

    def fileno(self) -> int:
        raise AssertionError("only asked where a pipe does not block")

    def readinto(self, buffer: Any) -> int:
        return self.source.readinto(memoryview(buffer)[:3])

    def write(self, data: Any) -> int:
        self.taken += bytes(data[:2])
        return min(2, len(data))


class FailingFlush(Dribble):
    """Fails when its buffer is flushed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


class Failing(Dribble):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def readinto(self, buffer: Any) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def write(self, data: Any) -> int:
        raise OSError(self.number, os.strerror(self.number))


def test_short_reads_and_writes_are_repeated() -> None:
    buffer = bytearray(10)
    assert read_whole(Dribble(b"0123456789abc"), buffer) == 10
    assert buffer == b"0123456789"
    assert read_whole(Dribble(b"0123"), bytearray(10)) == 4
    sink = Dribble()
    write_whole(sink, b"0123456")
    assert sink.taken == b"0123456"


def test_reading_a_line_does_not_consume_more() -> None:
    source = io.BytesIO(b"one\ntwo")
    assert read_line(source, 100) == b"one\n"
    assert read_line(source, 2) == b"tw"
    assert read_line(source, 100) == b"o"
    assert read_line(source, 100) == b""


def test_non_blocking_pipes_are_waited_for() -> None:
    """Some parents (Node.js) hand over such pipes: reading and writing then wait instead of failing."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    sent = os.urandom(1 << 20)  # more than the capacity of a pipe
    with io.FileIO(reading, "rb") as source, io.FileIO(writing, "wb") as sink:
        thread = threading.Thread(target=write_whole, args=(sink, sent))
        thread.start()
        received = bytearray(len(sent))
        assert read_whole(source, received) == len(sent)
        thread.join()
    assert received == sent


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EPIPE, OutputClosedError),
        (errno.ECONNRESET, OutputClosedError),
        (errno.ENOSPC, LimitError),
        (errno.EIO, InputError),
    ],
)
def test_failing_writes_are_explained(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        write_whole(Failing(number), b"x")
    with pytest.raises(kind):
        write_whole(FailingFlush(number), b"x")


def test_windows_says_invalid_argument_for_a_reader_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError):
        write_whole(Failing(errno.EINVAL), b"x")
    monkeypatch.setattr(pipe, "CLOSED_PIPE_ERRNOS", pipe.find_closed_pipe_errnos("nt"))
    with pytest.raises(OutputClosedError):
        write_whole(Failing(errno.EINVAL), b"x")


def test_failing_reads_are_explained() -> None:
    with pytest.raises(InputError, match="Input/output error"):
        read_whole(Failing(errno.EIO), bytearray(1))
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(InputError, match="closed file"):
        read_whole(closed, bytearray(1))


def test_a_closed_reader_is_detected_without_a_write() -> None:
    reading, writing = os.pipe()
    with io.FileIO(writing, "wb") as sink:
        check_output_open(sink)
        os.close(reading)
        with pytest.raises(OutputClosedError):
            check_output_open(sink)
    check_output_open(io.BytesIO())
    with open(os.devnull, "wb") as file:
        check_output_open(file)

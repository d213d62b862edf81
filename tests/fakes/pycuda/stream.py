"""Streams and events, as handles on the scheduler's queues."""

from __future__ import annotations

from typing import Any

from tests.fakes import gpu as machine
from tests.fakes.pycuda.checks import LogicError, driver, integer, no_capture
from tests.fakes.streams import LEGACY, Queue, Record


class event_flags:
    DEFAULT, BLOCKING_SYNC, DISABLE_TIMING, INTERPROCESS = 0, 1, 2, 4


class Stream:
    def __init__(self, flags: int = 0) -> None:
        self._gpu = driver("cuStreamCreate")
        self._queue = self._gpu.scheduler.open(blocking=not integer(flags, "Stream") & 1)

    @property
    def handle(self) -> int:
        return self._queue.handle

    def synchronize(self) -> None:
        gpu = driver("cuStreamSynchronize")
        if self._queue.captured is not None:
            no_capture(gpu, "cuStreamSynchronize")
        gpu.scheduler.drain(self._queue)

    def is_done(self) -> bool:
        driver("cuStreamQuery")
        return not self._queue.work

    def wait_for_event(self, event: Event) -> None:
        gpu = driver("cuStreamWaitEvent")
        if not isinstance(event, Event):
            raise TypeError("wait_for_event takes an Event")
        gpu.scheduler.wait(self._queue, event._record)

    def __del__(self) -> None:
        if hasattr(self, "_queue"):
            self._gpu.scheduler.close(self._queue)


class Event:
    def __init__(self, flags: int = 0) -> None:
        driver("cuEventCreate")
        self._timed = not integer(flags, "Event") & event_flags.DISABLE_TIMING
        self._record: Record | None = None

    def record(self, stream: Stream | None = None) -> Event:
        gpu = driver("cuEventRecord")
        self._record = gpu.scheduler.record(queue_of(stream, gpu, "cuEventRecord"))
        return self

    def synchronize(self) -> Event:
        gpu = driver("cuEventSynchronize")
        if self._record is not None:
            gpu.scheduler.drain_record(self._record)
        return self

    def query(self) -> bool:
        driver("cuEventQuery")
        return self._record is None or self._record.done

    def time_since(self, event: Event) -> float:
        """Returns milliseconds."""
        if not (self._timed and event._timed):
            raise LogicError("cuEventElapsedTime failed: invalid resource handle")
        if self._record is None or event._record is None:
            raise LogicError("cuEventElapsedTime failed: invalid resource handle")
        if not (self._record.done and event._record.done):
            raise LogicError("cuEventElapsedTime failed: device not ready")
        return (self._record.at - event._record.at) * 1e3

    def time_till(self, event: Event) -> float:
        return event.time_since(self)


def queue_of(stream: Any, gpu: machine.FakeGpu, call: str) -> Queue:
    if stream is None:
        return gpu.scheduler.queues[LEGACY]
    if isinstance(stream, Queue):  # of the other backend
        return stream
    if not isinstance(stream, Stream):
        raise TypeError(f"{call}: stream is a Stream or None, not {type(stream).__name__}")
    if stream._gpu is not gpu:
        raise LogicError(f"{call} failed: the stream is of another test's machine")
    return stream._queue

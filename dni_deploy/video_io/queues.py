"""Loop: read, effect and write overlap, each in a thread of its own, with a few frames between them.

    reader --[ READ_AHEAD_FRAMES ]--> effect (the caller's thread) --[ WRITE_BEHIND_FRAMES ]--> writer

The queues are bounded, so a slow reader downstream slows the whole graph, and memory does not grow with the stream.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Condition
from typing import Generic, TypeVar

from dni_deploy.video_io.pipe import OutputClosedError

In = TypeVar("In")

Out = TypeVar("Out")

Item = TypeVar("Item")

READ_AHEAD_FRAMES = 2

WRITE_BEHIND_FRAMES = 2
"""Frames: enough for the three to overlap. Each frame more is one frame more between a live alpha and its picture."""

READER_JOIN_TIMEOUT_S = 1.0
"""How long a reader that still waits for a stalled source is waited for when all else is done; it is a daemon."""

POLL_INTERVAL_S = 0.1
"""Waits are cut into pieces of this length: a signal that the system gives to another thread does not wake the main one, and
Python runs its handler there alone, between two waits."""


class ClosableQueue(Generic[Item]):
    """A queue of bounded length that either side can close."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: Item) -> bool:
        """Waits for room. False: it is closed, and the item was not taken."""
        with self._changed:
            self._wait(lambda: self._closed or len(self._items) < self._length)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def get(self, poll: Callable[[], None] = lambda: None) -> list[Item]:
        """Waits for the next item: [item], or [] where the belt is closed and empty. `poll` is called while it waits."""
        with self._changed:
            self._wait(lambda: self._closed or bool(self._items), poll)
            taken = [self._items.popleft()] if self._items else []
            self._changed.notify_all()
            return taken

    def _wait(self, ready: Callable[[], bool], poll: Callable[[], None] = lambda: None) -> None:
        while not self._changed.wait_for(ready, POLL_INTERVAL_S):
            poll()

    def close(self, *, drop: bool = False) -> None:
        """Nothing more is taken; what lies on it can still be fetched, unless it is dropped."""
        with self._changed:
            self._closed = True
            if drop:
                self._items.clear()
            self._changed.notify_all()


class _Worker(threading.Thread):
    """A daemon thread that keeps the error that ended it."""

    def __init__(self, work: Callable[[], None], finish: Callable[[], None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._finish = work, finish
        self.error: BaseException | None = None

    def wait(self) -> None:
        """Until it has ended."""
        while self.is_alive():
            self.join(POLL_INTERVAL_S)

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error
        finally:
            self._finish()


def run_pipeline(
    source: Iterable[In],
    process_frame: Callable[[In, int], Out],
    sink: Callable[[Out], None],
    poll: Callable[[], None] = lambda: None,
) -> tuple[int, bool]:
    """Take every item of `source` through `process_frame` (item, number) in the caller's thread, and hand it to `sink`, in order.

    glance: called by the sink's thread every now and then while it has nothing to hand over.
    Returns how many were handed over whole, and whether it ended because `sink` or `poll` raised Downstream.
    Raises what the three raise; whatever came before the error has been handed over, unless it is the sink's own.
    """
    ahead: ClosableQueue[In] = ClosableQueue(READ_AHEAD_FRAMES)
    behind: ClosableQueue[Out] = ClosableQueue(WRITE_BEHIND_FRAMES)
    written = 0

    def read() -> None:
        for item in source:
            if not ahead.put(item):
                return

    def write() -> None:
        nonlocal written
        while taken := behind.get(poll):
            sink(taken[0])
            written += 1

    def close_queues() -> None:
        behind.close(drop=True)
        ahead.close(drop=True)

    reader = _Worker(read, ahead.close, "dni-read")
    writer = _Worker(write, close_queues, "dni-write")
    reader.start()
    writer.start()
    try:
        number = 0
        while taken := ahead.get():
            if not behind.put(process_frame(taken[0], number)):
                break
            number += 1
    except BaseException as error:
        ahead.close(drop=True)
        behind.close(drop=not isinstance(error, Exception))
        if isinstance(error, Exception):  # what was made before it is handed over; Ctrl-C waits for nobody
            writer.wait()
        raise
    behind.close()
    writer.wait()
    reader.join(READER_JOIN_TIMEOUT_S)
    closed = isinstance(writer.error, OutputClosedError)
    for worker in (writer, reader):
        if worker.error is not None and not isinstance(worker.error, OutputClosedError):
            raise worker.error
    return written, closed


class QueueClosedError(Exception):
    """The channel was broken: somebody else failed, and tells why."""


class AbortableQueue(Generic[Item]):
    """One thread puts, one gets; at most `max_items` items are between them."""

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._items: deque[Item] = deque()
        self._changed = Condition()
        self._closed = False
        self._aborted = False

    def put(self, item: Item) -> None:
        """Wait for room and put. Raises Broken."""
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or len(self._items) < self._max_items)
            if self._aborted:
                raise QueueClosedError
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """There will be no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Wake and stop both sides at once; what is inside is dropped."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Every item until the end. Raises Broken."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._aborted or self._closed or bool(self._items))
                if self._aborted:
                    raise QueueClosedError
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # a frame is not to be held while the next one is waited for

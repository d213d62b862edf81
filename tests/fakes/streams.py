"""Streams: FIFO queues whose work runs as late, or in as unfavorable an order, as CUDA allows.

Work of one stream runs in order; that of two streams in any order that events do not forbid. Waiting for an event waits for
the record that was made before the wait was queued, not for later ones. Work runs only when something forces it: a host wait,
or, with a seed, at random during any call.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LEGACY = 0
"""The handle of the default stream, which synchronizes with blocking streams."""


@dataclass(eq=False)
class Record:
    """One record of an event: `done` once the stream has reached it."""

    queue: Queue
    number: int = -1
    done: bool = False
    at: float = 0.0


@dataclass(eq=False)
class Work:
    """run is called once, in whichever thread advances the queue.

    owner      the object whose work it is (a TensorRT engine); context: a weak reference to that engine's context.
    memory     address of what that context works in; 0 where it has memory of its own.
    """

    label: str
    run: Callable[[], None]
    owner: Any = None
    kind: str = ""
    after: Record | None = None
    number: int = -1
    context: Any = None
    memory: int = 0


@dataclass(eq=False)
class Queue:
    """One stream. `captured` is a list while a graph is being captured from it."""

    handle: int
    blocking: bool
    work: deque[Work] = field(default_factory=deque)
    numbers: int = 0
    captured: list[Work] | None = None
    destroyed: bool = False


class Scheduler:
    """All queues of a device. seed None: work runs as late as possible; a number: at random; eager: at once.

    `report` takes one sentence for each violation. Every method may be called from any thread.
    """

    def __init__(self, report: Callable[[str], None], seed: int | None = None, eager: bool = False) -> None:
        self.report = report
        self.lock = threading.RLock()
        self.eager = eager
        self.reseed(seed)
        self.queues: dict[int, Queue] = {LEGACY: Queue(LEGACY, True)}
        self._next_handle = 0x5CA1AB1E0000
        self._running = False

    def reseed(self, seed: int | None) -> None:
        """Each seed has its own pace, from a device that hardly advances to one that is nearly always idle."""
        self.chance: random.Random | None = None if seed is None else random.Random(seed)
        self.pace = 0.0 if self.chance is None else self.chance.choice((0.02, 0.2, 0.5))

    def open(self, blocking: bool) -> Queue:
        with self.lock:
            self._next_handle += 0x100
            queue = self.queues[self._next_handle] = Queue(self._next_handle, blocking)
            return queue

    def close(self, queue: Queue) -> None:
        """Like cuStreamDestroy: queued work still runs."""
        with self.lock:
            queue.destroyed = True
            if not queue.work:
                self.queues.pop(queue.handle, None)

    def find(self, handle: int, what: str) -> Queue | None:
        """Returns the live stream of a handle, or None after a report."""
        queue = self.queues.get(handle)
        if queue is None or queue.destroyed:
            self.report(f"{what}: {handle:#x} is no living stream")
            return None
        return queue

    def add(self, queue: Queue, work: Work) -> Work:
        with self.lock:
            if queue.captured is not None:
                queue.captured.append(work)
                return work
            for other in self._synchronized_with(queue):
                self._append(queue, Work("default stream", _nothing, after=self._tail(other)))
            self._append(queue, work)
            self.tick()
            return work

    def record(self, queue: Queue) -> Record:
        with self.lock:
            event_record = Record(queue)

            def run() -> None:
                event_record.done, event_record.at = True, time.perf_counter()

            event_record.number = self.add(queue, Work("record", run)).number
            return event_record

    def wait(self, queue: Queue, record: Record | None) -> None:
        """Later work of the queue waits for this record; without a record there is nothing to wait for, as in CUDA."""
        if record is not None:
            self.add(queue, Work("wait", _nothing, after=record))

    def tick(self) -> None:
        """The device may or may not have advanced at any call."""
        with self.lock:
            if self.eager:
                self.drain_all()
            elif self.chance is not None and not self._running:
                while self.chance.random() < self.pace and self._run_any():
                    pass

    def drain(self, queue: Queue) -> None:
        """Runs all work that the queue holds now."""
        with self.lock:
            if queue.work:
                last = queue.work[-1].number
                self._until(lambda: not queue.work or queue.work[0].number > last, queue)

    def drain_record(self, record: Record) -> None:
        with self.lock:
            self._until(lambda: record.done, record.queue)

    def drain_all(self) -> None:
        with self.lock:
            for queue in list(self.queues.values()):
                self.drain(queue)

    def pending(self, owner: object) -> list[tuple[Queue, Work]]:
        """Returns the owner's queued work that has not run."""
        with self.lock:
            return [(queue, work) for queue in self.queues.values() for work in queue.work if work.owner is owner]

    def pending_in(self, memory: int) -> list[tuple[Queue, Work]]:
        """Returns the queued work that works in this memory and has not run."""
        with self.lock:
            return [(queue, work) for queue in self.queues.values() for work in queue.work if work.memory == memory]

    def ordered(self, queue: Queue, other: Queue, work: Work) -> bool:
        """Tells whether new work of `queue` is certain to run after `work`, which is pending in `other`."""
        if queue is other:
            return True
        with self.lock:
            return self._ordered(queue, other, work)

    def _ordered(self, queue: Queue, other: Queue, work: Work) -> bool:
        seen, left = {id(queue)}, [queue]
        while left:
            for each in left.pop().work:
                record = each.after
                if record is None or record.done:
                    continue
                if record.queue is other and record.number > work.number:
                    return True
                if id(record.queue) not in seen:
                    seen.add(id(record.queue))
                    left.append(record.queue)
        return False

    def _append(self, queue: Queue, work: Work) -> None:
        queue.numbers += 1
        work.number = queue.numbers
        queue.work.append(work)

    def _tail(self, queue: Queue) -> Record:
        event_record = Record(queue)

        def run() -> None:
            event_record.done = True

        self._append(queue, Work("tail", run))
        event_record.number = queue.numbers
        return event_record

    def _synchronized_with(self, queue: Queue) -> list[Queue]:
        legacy = self.queues[LEGACY]
        if queue is legacy:
            return [other for other in self.queues.values() if other.blocking and other is not legacy and other.work]
        return [legacy] if queue.blocking and legacy.work else []

    def _until(self, done: Callable[[], bool], wanted: Queue) -> None:
        while not done():
            if self.chance is not None and self.chance.random() < self.pace and self._run_any():
                continue
            self._run_towards(wanted, set())

    def _run_towards(self, queue: Queue, visited: set[int]) -> None:
        if not queue.work or id(queue) in visited:
            raise RuntimeError("the fake's streams wait for each other: this cannot end")
        head = queue.work[0]
        if head.after is not None and not head.after.done:
            self._run_towards(head.after.queue, visited | {id(queue)})
        else:
            self._run(queue)

    def _run_any(self) -> bool:
        assert self.chance is not None
        ready = [
            queue for queue in self.queues.values() if queue.work and (queue.work[0].after is None or queue.work[0].after.done)
        ]
        if not ready:
            return False
        self._run(self.chance.choice(ready))
        return True

    def _run(self, queue: Queue) -> None:
        work = queue.work.popleft()
        self._running = True
        try:
            work.run()
        except Exception as error:
            self.report(f"{work.label} failed while it ran: {type(error).__name__}: {error}")
        finally:
            self._running = False
        if queue.destroyed and not queue.work:
            self.queues.pop(queue.handle, None)


def _nothing() -> None:
    pass

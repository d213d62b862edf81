"""Reading, processing and writing overlap, in order, with few items in between; every fault ends them cleanly."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from dni_deploy.video_io.pipe import OutputClosedError
from dni_deploy.video_io.pipeline import PipelineLimits, make_completed_future, run_pipeline
from dni_deploy.video_io.queues import QueueClosedError

DEADLINE_S = 10.0
"""Far longer than any of these runs takes, so that a failure ends instead of hanging."""

LIMITS = PipelineLimits(max_read=2, max_processed=3, join_timeout_s=1.0)

MAX_ITEMS_BETWEEN = LIMITS.max_read + LIMITS.max_processed + 3
"""Both queues full, and one item in each of the three stages."""


def write_to(target: Callable[[int], object]) -> Callable[[Iterator[int]], None]:
    """Turns a function of one item into a writer."""

    def write(items: Iterator[tuple[int, int]]) -> None:
        for _, item in items:
            target(item)

    return write


def identity(item: int) -> Future[int]:
    return make_completed_future(item)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name in ("dni-read", "dni-write"):
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), thread.name


def test_items_are_written_in_order() -> None:
    out: list[int] = []
    assert run_pipeline(range(200), lambda item: make_completed_future(item * 1000), write_to(out.append), LIMITS) == (
        200,
        False,
    )
    assert out == [1000 * item for item in range(200)]
    assert run_pipeline((), identity, write_to(out.append), LIMITS) == (0, False)


def test_reading_processing_and_writing_overlap() -> None:
    """Each of the three stages waits for the other two; run sequentially, they would never pass the barrier."""
    barrier = threading.Barrier(3)

    def meet(item: int) -> int:
        barrier.wait(DEADLINE_S)
        return item

    def read() -> Iterator[int]:
        yield 0
        yield 1
        yield meet(2)

    def process(item: int) -> Future[int]:
        return make_completed_future(meet(item) if item == 1 else item)

    assert run_pipeline(read(), process, write_to(lambda item: meet(item) if item == 0 else item), LIMITS) == (3, False)


def test_a_stalled_output_stops_the_input() -> None:
    """Memory does not grow with the length of the stream."""
    count = 0
    is_full, may_go_on = threading.Event(), threading.Event()

    def read() -> Iterator[int]:
        nonlocal count
        for item in range(1000):
            count += 1
            if count == MAX_ITEMS_BETWEEN:
                is_full.set()
            yield item

    thread = threading.Thread(
        target=run_pipeline, args=(read(), identity, write_to(lambda item: may_go_on.wait(DEADLINE_S)), LIMITS)
    )
    thread.start()
    assert is_full.wait(DEADLINE_S)
    thread.join(0.05)  # returns at once on success; leaves time to read too far on failure
    assert count == MAX_ITEMS_BETWEEN
    may_go_on.set()
    thread.join(DEADLINE_S)
    assert count == 1000


class FaultError(Exception):
    """Represents any error in one of the three stages."""


FAULT_AT = 20
"""The item at which the fault occurs: after every queue was full."""


class FaultyStream:
    """Counts up; at item FAULT_AT a fault occurs in one of the three stages, or while the output waits."""

    def __init__(self, place: str, fault: str, is_output_slow: bool) -> None:
        self.place, self.fault, self.is_output_slow = place, fault, is_output_slow
        self.written: list[int] = []
        self.max_between = 0
        self.is_over = threading.Event()
        self._is_backlogged = threading.Event()

    def read(self) -> Iterator[int]:
        for item in range(1000):
            self.max_between = max(self.max_between, item + 1 - len(self.written))
            if item + 1 == MAX_ITEMS_BETWEEN - 1:
                self._is_backlogged.set()
            if self.place == "poll" and item == FAULT_AT:  # a stalled source leaves the output waiting
                self.is_over.wait(DEADLINE_S)
                return
            yield self._pass("read", item)

    def process(self, item: int) -> Future[int]:
        if self.place == "result" and item == FAULT_AT:
            failed: Future[int] = Future()
            failed.set_exception(FaultError())
            return failed
        return make_completed_future(self._pass("process", item))

    def write(self, items: Iterator[tuple[int, int]]) -> None:
        if self.is_output_slow:  # as slow as possible: it starts when all others wait for it
            assert self._is_backlogged.wait(DEADLINE_S)
        for _, item in items:
            self.written.append(self._pass("write", item))

    def poll(self) -> None:
        if len(self.written) == FAULT_AT:
            self._pass("poll", FAULT_AT)

    def _pass(self, place: str, item: int) -> int:
        if place != self.place or item != FAULT_AT:
            return item
        if self.fault == "error":
            raise FaultError
        if self.fault == "closed output":
            raise OutputClosedError
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C: in the main thread, while this stage is working
        if place != "process":
            self.is_over.wait(DEADLINE_S)
        return item


@pytest.mark.parametrize("is_output_slow", [False, True], ids=["fast output", "slow output"])
@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("read", "error"),
        ("process", "error"),
        ("result", "error"),
        ("write", "error"),
        ("poll", "error"),
        ("read", "Ctrl-C"),
        ("process", "Ctrl-C"),
        ("write", "Ctrl-C"),
        ("write", "closed output"),
        ("poll", "closed output"),
    ],
)
def test_every_fault_ends_the_pipeline_cleanly(place: str, fault: str, is_output_slow: bool) -> None:
    """An error is raised after all earlier items were written, Ctrl-C drops them, a closed output ends the run with a count.

    The fixture checks that no thread is left; no more items than the limits are between the stages.
    """
    stream = FaultyStream(place, fault, is_output_slow)
    limits = LIMITS._replace(join_timeout_s=0.2)  # it passes where a stage is blocked until `is_over`
    try:
        if fault == "closed output":
            assert run_pipeline(stream.read(), stream.process, stream.write, limits, stream.poll) == (FAULT_AT, True)
        else:
            with pytest.raises(FaultError if fault == "error" else KeyboardInterrupt):
                run_pipeline(stream.read(), stream.process, stream.write, limits, stream.poll)
    finally:
        stream.is_over.set()
    assert stream.written[:FAULT_AT] == list(range(FAULT_AT if fault != "Ctrl-C" else min(FAULT_AT, len(stream.written))))
    assert len(stream.written) <= FAULT_AT + (fault == "Ctrl-C" and place == "write")
    assert stream.max_between <= MAX_ITEMS_BETWEEN


def test_the_first_error_wins() -> None:
    """The output fails while it writes the items before an input error."""
    has_failed = threading.Event()

    def read() -> Iterator[int]:
        yield from range(2)
        has_failed.set()
        raise FaultError

    def write(items: Iterator[tuple[int, int]]) -> None:
        assert has_failed.wait(DEADLINE_S)
        assert next(items) == (0, 0)
        raise OSError("the disk, later")

    def process(item: int) -> Future[int]:
        assert has_failed.wait(DEADLINE_S)
        return make_completed_future(item)

    with pytest.raises(FaultError):
        run_pipeline(read(), process, write, LIMITS)


def test_the_writer_is_notified_of_missing_items() -> None:
    """Otherwise it would finish an incomplete segment."""
    ends: list[str] = []

    def read() -> Iterator[int]:
        yield 0
        raise FaultError

    def write(items: Iterator[tuple[int, int]]) -> None:
        try:
            for _ in items:
                pass
            ends.append("whole")
        except QueueClosedError:
            ends.append("items are missing")
            raise

    with pytest.raises(FaultError):
        run_pipeline(read(), identity, write, LIMITS)
    assert ends == ["items are missing"]


def test_results_are_written_in_order_as_soon_as_they_are_there() -> None:
    """The second item overtakes the first and waits for it; a result waits for no later item, or a live stream would lag."""
    second_is_done, both_are_written = threading.Event(), threading.Event()
    out: list[int] = []

    def work(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(DEADLINE_S)
        else:
            second_is_done.set()
        return item

    def read() -> Iterator[int]:
        yield 0
        yield 1
        assert both_are_written.wait(DEADLINE_S)
        yield 2

    def take(item: int) -> None:
        out.append(item)
        if len(out) == 2:
            both_are_written.set()

    with ThreadPoolExecutor(2) as pool:
        assert run_pipeline(read(), lambda item: pool.submit(work, item), write_to(take), LIMITS) == (3, False)
    assert out == [0, 1, 2]

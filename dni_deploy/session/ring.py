"""Frames in flight: a few threads that each take a frame through the engine, so that conversion, copies and network overlap.

As in swap.py, KeyboardInterrupt may fall between any two steps of the thread that submits. What a frame holds is noted under a
token, and given back by whoever claims the frame first: the thread that runs it, or the one that gives it up.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from dni_deploy.errors import EngineError
from dni_deploy.session.condition import POLL_INTERVAL_S, InterruptibleCondition
from dni_deploy.session.swap import CurrentWeights, RefitStrategy
from engines.interface import FRAMES_IN_FLIGHT

Value = TypeVar("Value")
Output = TypeVar("Output")


class FrameRing(Generic[Value]):
    """Runs the work of frames, at most FRAMES_IN_FLIGHT at once; who submits one more waits.

    Thread safety: any thread may call any method.
    """

    def __init__(self, refitter: RefitStrategy[Value]) -> None:
        """Makes a ring without threads; the first frame starts them.

        Args:
            refitter: Hands out the weights of frames.
        """
        self._refitter = refitter
        self._under_way: dict[_Frame[Any], None] = {}
        self._changed = InterruptibleCondition()
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False
        self._process_id = os.getpid()

    @property
    def is_in_other_process(self) -> bool:
        """Whether this process is a fork of the one that made the ring; its threads and those of the engine are not here then."""
        return os.getpid() != self._process_id

    def check_process(self) -> None:
        """Raises EngineError where `is_in_other_process`."""
        if self.is_in_other_process:
            raise EngineError(
                "The session was opened before this process was forked, and its threads are not here; open one here."
            )

    def submit(self, work: Callable[[CurrentWeights[Value]], Output], value: Value | None = None) -> Future[Output]:
        """Begins the work of a frame, when there is a place for it.

        Args:
            work: Called in a thread of the ring, with the frame's weights, whose slot stays untouched until it returns.
            value: The frame's own value of the weights, as `RefitStrategy.acquire` takes it.

        Returns:
            What `work` returns or raises, later.

        Raises:
            EngineError: The ring is closed.
            Exception: As `RefitStrategy.acquire`.
        """
        frame: _Frame[Output] = _Frame(self._end)
        try:
            with self._changed:
                while len(self._under_way) >= FRAMES_IN_FLIGHT:
                    self._changed.wait(POLL_INTERVAL_S)
                self._under_way[frame] = None
            weights = self._refitter.acquire(frame, value)
            frame.run = lambda: work(weights)
            with self._changed:
                if self._closed:
                    raise EngineError("The session is closed.")
                if self._executor is None:
                    self._executor = _InterruptibleExecutor(FRAMES_IN_FLIGHT, thread_name_prefix="frames in flight")
                self._executor.submit(frame.render)
        except BaseException:
            frame.give_up()
            raise
        return frame.future

    def _end(self, frame: _Frame[Any]) -> None:
        self._refitter.release(frame)
        self._under_way.pop(frame, None)
        self._changed.notify_all()

    def stream(self, futures: Iterator[Future[Output]]) -> Iterator[Output]:
        """Yields the results of submitted work in its order, and submits ahead of them.

        Args:
            futures: Submits the next piece of work at each step.
        """
        pending: deque[Future[Output]] = deque()
        try:
            while True:
                try:
                    pending.append(next(futures))
                except StopIteration:
                    break
                except BaseException:
                    while pending:
                        yield pending.popleft().result()
                    raise
                if len(pending) == FRAMES_IN_FLIGHT:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            for future in pending:
                if not future.cancelled():
                    future.exception()  # waits for it, so that nothing of this stream still runs

    def close(self) -> None:
        """Waits for the work that is running and cancels what has not begun; calling it again does nothing."""
        with self._changed:
            self._closed = True
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        for frame in list(self._under_way):
            frame.give_up()


class _Frame(Generic[Output]):
    """A frame under way, and the token of what it holds.

    Attributes:
        future: Of its output.
        run: Renders it.
    """

    run: Callable[[], Output]

    def __init__(self, end: Callable[[_Frame[Any]], None]) -> None:
        self.future: Future[Output] = _InterruptibleFuture()
        self._end = end
        self._claim = threading.Lock()  # taken once, by who gives back what the frame holds

    def render(self) -> None:
        """Renders the frame, unless it was given up or cancelled."""
        if not self._claim.acquire(blocking=False):
            return
        output, error = None, None
        try:
            if not self.future.set_running_or_notify_cancel():
                return
            output = self.run()
        except BaseException as raised:
            error = raised
        finally:
            self._end(self)
        if error is None:
            self.future.set_result(output)  # type: ignore[arg-type]
        else:
            self.future.set_exception(error)

    def give_up(self) -> None:
        """Cancels the frame, unless it is being rendered."""
        if self._claim.acquire(blocking=False):
            self._end(self)
            self.future.cancel()


class _InterruptibleFuture(Future[Output]):
    """A future whose lock KeyboardInterrupt does not leave held."""

    def __init__(self) -> None:
        super().__init__()
        self._condition: Any = InterruptibleCondition()


class _InterruptibleExecutor(ThreadPoolExecutor):
    """An executor whose locks KeyboardInterrupt does not leave held: it counts no idle threads, and so starts all of them."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._idle_semaphore: Any = _NoIdleThreads()


class _NoIdleThreads:
    def acquire(self, timeout: float) -> bool:
        return False

    def release(self) -> None:
        pass

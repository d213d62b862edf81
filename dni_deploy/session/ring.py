"""Frames in flight: a few threads that each take a frame through the engine, so that conversion, copies and network overlap."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

from dni_deploy.errors import EngineError
from engines.interface import FRAMES_IN_FLIGHT

Held = TypeVar("Held")
Output = TypeVar("Output")


class FrameRing:
    """Runs the work of frames, at most FRAMES_IN_FLIGHT at once; who submits one more waits.

    Thread safety: any thread may call any method.
    """

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(FRAMES_IN_FLIGHT)
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False

    def submit(self, hold: Callable[[], AbstractContextManager[Held]], work: Callable[[Held], Output]) -> Future[Output]:
        """Begins work, when there is a place for it.

        Args:
            hold: Called in the caller's thread; what it returns is held until the work has ended.
            work: Called in a thread of the ring, with what is held.

        Returns:
            What `work` returns or raises, later.

        Raises:
            EngineError: The ring is closed.
        """
        with ExitStack() as stack:
            self._places.acquire()
            stack.callback(self._places.release)
            held = stack.enter_context(hold())
            with self._lock:
                if self._closed:
                    raise EngineError("The session is closed.")
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(FRAMES_IN_FLIGHT, thread_name_prefix="frames in flight")
                future = self._executor.submit(work, held)
            end = stack.pop_all().close
        future.add_done_callback(lambda _: end())
        return future

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
        with self._lock:
            self._closed = True
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)

"""threading.Condition for code that a signal may interrupt: neither KeyboardInterrupt nor a handler leaves its lock held.

Python checks for signals when a function of Python begins and when any call returns. The lock's `__enter__` and `__exit__` are
functions of C, so that there is no such moment between taking the lock and the block that releases it; those of
`threading.Condition` are functions of Python, and an exception that falls into one leaves the lock held for ever.
"""

from __future__ import annotations

import threading
import time
from _thread import RLock
from collections.abc import Callable
from queue import Empty, SimpleQueue

POLL_INTERVAL_S = 0.1
"""Length of a piece into which waits are cut: the system may give a signal to another thread, which does not wake the main one,
and an exception may fall between a change and its notification."""


class InterruptibleCondition(RLock):  # type: ignore[misc]  # final only where it is typed
    """Like `threading.Condition` over a lock that its thread may take again, as in a signal's handler; to be held once to wait.

    Thread safety: any thread and any signal's handler may call any method.
    """

    def __init__(self) -> None:
        self._wakes: dict[object, SimpleQueue[None]] = {}

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for a notification without the lock.

        Args:
            timeout: Seconds; None: without limit.

        Returns:
            Whether it came in time.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        token: object = object()
        wake: SimpleQueue[None] = SimpleQueue()
        held_once = (1, threading.get_ident())
        try:
            self._wakes[token] = wake
            self.release()
            while True:
                try:
                    wake.get(timeout=max(0.0, min(POLL_INTERVAL_S, deadline - time.monotonic())))
                    return True
                except Empty:
                    if time.monotonic() >= deadline:
                        return False
        finally:
            self._acquire_restore(held_once)  # type: ignore[attr-defined]  # unlike `acquire`, no signal interrupts it
            self._wakes.pop(token, None)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until a predicate holds.

        Args:
            predicate: Called with the lock held, after each notification and every POLL_INTERVAL_S.
            timeout: Seconds; None: without limit.

        Returns:
            Whether that was in time.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while not predicate():
            if time.monotonic() >= deadline:
                return False
            self.wait(min(POLL_INTERVAL_S, deadline - time.monotonic()))
        return True

    def notify_all(self) -> None:
        """Ends the waits that have begun; may be called without the lock."""
        for wake in list(self._wakes.values()):
            wake.put(None)

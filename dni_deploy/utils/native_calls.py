"""Calls of native code that a signal can end.

A signal's handler in Python runs when the main thread comes back from native code, which takes minutes for a large frame. A thread
of its own therefore waits for signals here, and makes the calls end that are running.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")

END_TIMEOUT_S = 1.5
"""How long a call may go on after a signal. ONNX Runtime looks between two operators whether it is to end, and one operator on a
frame of 12 megapixels takes longer than that; then the process is ended as it is."""

SHOW_CURSOR = b"\x1b[?25h"


class NativeCalls:
    """The calls of this process that are running, and whether they are to end.

    Thread safety: any thread may call any method.
    """

    def __init__(self) -> None:
        self._end_by_token: dict[object, Callable[[], None]] = {}
        self.are_ending = False

    def run(self, call: Callable[[], Result], end: Callable[[], None]) -> Result:
        """Runs a call.

        Args:
            call: The call.
            end: Makes it raise an exception soon; called in any thread, before it, during it or after it.

        Returns:
            What it returns.

        Raises:
            Exception: What it raises.
        """
        token = object()
        try:  # no context manager: the exception of a signal's handler can fall between the parts of one
            self._end_by_token[token] = end
            if self.are_ending:
                end()
            return call()
        finally:
            self._end_by_token.pop(token, None)

    def end_all(self) -> None:
        """Ends all that are running, and every later one as soon as it begins."""
        self.are_ending = True
        for end in list(self._end_by_token.values()):
            end()

    def wait_until_ended(self, timeout_s: float) -> bool:
        """Waits for the calls that are running; returns whether they ended in time."""
        tokens, deadline = set(self._end_by_token), time.monotonic() + timeout_s
        while not tokens.isdisjoint(list(self._end_by_token)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


NATIVE_CALLS = NativeCalls()
"""Those of this process."""


@contextmanager
def end_calls_at_signals(signals: Collection[int]) -> Iterator[None]:
    """Ends the native calls of all threads when one of these signals comes during the block; for the main thread.

    The signals' handlers run as ever, as soon as the main thread is back from native code. A call that goes on for longer than
    END_TIMEOUT_S ends the process as a kill does, with exit code 128 + the signal's number.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch_signals, args=(reader, signals), name="dni-deploy signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()
        watcher.join()
        reader.close()
        NATIVE_CALLS.are_ending = False


def _watch_signals(reader: socket.socket, signals: Collection[int]) -> None:
    """Waits for signals until the other end is closed."""
    while numbers := reader.recv(64):
        number = next((number for number in numbers if number in signals), None)
        if number is not None:
            NATIVE_CALLS.end_all()
            if not NATIVE_CALLS.wait_until_ended(END_TIMEOUT_S):
                _end_process(128 + number)


def _end_process(exit_code: int) -> None:
    """Ends the process under native code that does not return."""
    if os.isatty(2):
        os.write(2, SHOW_CURSOR + b"\n")  # a progress bar hides it
    os.write(2, b"dni-deploy: stopped.\n")
    os._exit(exit_code)

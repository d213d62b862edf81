"""SwapAhead: a Swap whose refits run in a thread of their own, so that no frame ever waits for one.

    request(value)          any thread, at once; the thread begins to refit an idle slot
    with frame() as live:   the newest value that is ready, at once; its slot stays untouched until the frame ends

The trade against Swap: there the next frame that starts has the new value, and pays for the refit; here a frame costs what it always
costs, and a value shows at the first frame boundary after its refit has ended. The newest request wins: what was overtaken while the
thread was busy is skipped. A refit that was overtaken while it ran is shown all the same, or a slider that never rests would show nothing.

Live is one immutable object, taken once per frame, as in Swap. The lock is held for assignments, never for a refit.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic

from dni_deploy.errors import EngineError, UsageError
from dni_deploy.session.swap import Live, Value

PATIENCE = 60.0
"""Seconds that close waits for a refit that is running; the slowest known, RRDBNet through TensorRT 8.6, takes a few."""


class SwapAhead(Generic[Value]):
    """slots: how many sets of weights there are, at least 2; refit(slot, value): put the value into a slot and return when a frame
    on it waits for nothing, raise if that fails. The first value is refitted by the caller, all others by the thread.
    """

    def __init__(self, slots: int, refit: Callable[[int, Value], None], first: Value) -> None:
        if slots < 2:
            raise UsageError("Refitting ahead needs an engine with 2 sets of weights: one for frames, one to refit meanwhile.")
        self._refit = refit
        self._pins = [0] * slots
        self._changed = threading.Condition()
        self._wanted: Value = first
        refit(0, first)
        self._live: Live[Value] = Live(1, 0, first)
        self._failure: BaseException | None = None
        self._stopped = self._refitting = False
        self._thread = threading.Thread(target=self._work, name="dni-deploy refit", daemon=True)
        self._thread.start()
        # The interpreter must not end under a refit that is running: a device would be left in the middle of a call.
        atexit.register(self.close)

    @property
    def wanted(self) -> Value:
        """The newest requested value that has not failed."""
        return self._wanted

    @property
    def generation(self) -> int:
        """How many values have been live; 1 after the first."""
        return self._live.generation

    def request(self, value: Value) -> None:
        """Have `value` refitted, and shown from the first frame that begins after that. Never waits for a frame or a refit."""
        with self._changed:
            self._wanted = value
            self._changed.notify_all()

    @contextmanager
    def frame(self) -> Iterator[Live[Value]]:
        """Hold the newest ready slot for one frame; never waits for a refit.

        Raises, once, what a refit raised since the last frame (the newest, if several did); the value before stays in force.
        """
        with self._changed:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            live = self._live
            self._pins[live.slot] += 1
        try:
            yield live
        finally:
            with self._changed:
                self._pins[live.slot] -= 1
                self._changed.notify_all()

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until the newest requested value is live, has failed, or the thread has ended; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._stopped or (not self._refitting and self._live.value is self._wanted), timeout
            )

    def close(self) -> None:
        """End the thread, after the refit that is running; what was not begun is dropped. Calling it again does nothing.

        Raises EngineError where that refit does not end: the engine must not be freed under it then.
        """
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        atexit.unregister(self.close)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise EngineError(f"A refit has not ended within {PATIENCE:.0f} seconds; the engine is left as it is.")

    def _work(self) -> None:
        while True:
            with self._changed:
                slot = self._idle()
                while not self._stopped and (slot is None or self._live.value is self._wanted):
                    self._changed.wait()
                    slot = self._idle()
                if self._stopped or slot is None:
                    return
                value, self._refitting = self._wanted, True
            failure: BaseException | None = None
            try:
                self._refit(slot, value)
            except BaseException as error:  # of whatever kind, it belongs to whoever asks for frames
                failure = error
            with self._changed:
                self._refitting = False
                if failure is None and self._live.value is not self._wanted:  # else what shows was asked for again meanwhile
                    self._live = Live(self._live.generation + 1, slot, value)
                if failure is not None:
                    self._failure = failure
                    if self._wanted is value:  # a request that came meanwhile stays
                        self._wanted = self._live.value
                self._changed.notify_all()

    def _idle(self) -> int | None:
        """A slot that neither shows nor is in a frame; None if there is none. A slot whose refit failed is one of them:
        nothing shows it before it was refitted whole."""
        idle = (slot for slot, pins in enumerate(self._pins) if pins == 0 and slot != self._live.slot)
        return next(idle, None)

"""AsyncRefit: a Swap whose refits run in a thread of their own, so that no frame ever waits for one.

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
from dni_deploy.session.swap import CurrentWeights, Value

REFIT_CLOSE_TIMEOUT_S = 60.0
"""Seconds that close waits for a refit that is running; the slowest known, RRDBNet through TensorRT 8.6, takes a few."""


class AsyncRefit(Generic[Value]):
    """slots: how many sets of weights there are, at least 2; refit(slot, value): put the value into a slot and return when a frame
    on it waits for nothing, raise if that fails. The first value is refitted by the caller, all others by the thread.
    """

    def __init__(self, slots: int, refit: Callable[[int, Value], None], initial: Value) -> None:
        if slots < 2:
            raise UsageError("Refitting ahead needs an engine with 2 sets of weights: one for frames, one to refit meanwhile.")
        self._refit = refit
        self._frames_in_slot = [0] * slots
        self._state_changed = threading.Condition()
        self._requested: Value = initial
        refit(0, initial)
        self._current: CurrentWeights[Value] = CurrentWeights(1, 0, initial)
        self._failure: BaseException | None = None
        self._stopped = self._refitting = False
        self._thread = threading.Thread(target=self._run_refits, name="dni-deploy refit", daemon=True)
        self._thread.start()
        # The interpreter must not end under a refit that is running: a device would be left in the middle of a call.
        atexit.register(self.close)

    @property
    def requested(self) -> Value:
        """The newest requested value that has not failed."""
        return self._requested

    @property
    def generation(self) -> int:
        """How many values have been live; 1 after the first."""
        return self._current.generation

    def request(self, value: Value) -> None:
        """Have `value` refitted, and shown from the first frame that begins after that. Never waits for a frame or a refit."""
        with self._state_changed:
            self._requested = value
            self._state_changed.notify_all()

    @contextmanager
    def hold_current(self) -> Iterator[CurrentWeights[Value]]:
        """Hold the newest ready slot for one frame; never waits for a refit.

        Raises, once, what a refit raised since the last frame (the newest, if several did); the value before stays in force.
        """
        with self._state_changed:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            live = self._current
            self._frames_in_slot[live.slot] += 1
        try:
            yield live
        finally:
            with self._state_changed:
                self._frames_in_slot[live.slot] -= 1
                self._state_changed.notify_all()

    def wait_until_applied(self, timeout: float | None = None) -> bool:
        """Wait until the newest requested value is live, has failed, or the thread has ended; False after `timeout` seconds."""
        with self._state_changed:
            return self._state_changed.wait_for(
                lambda: self._stopped or (not self._refitting and self._current.value is self._requested), timeout
            )

    def close(self) -> None:
        """End the thread, after the refit that is running; what was not begun is dropped. Calling it again does nothing.

        Raises EngineError where that refit does not end: the engine must not be freed under it then.
        """
        with self._state_changed:
            self._stopped = True
            self._state_changed.notify_all()
        atexit.unregister(self.close)
        self._thread.join(REFIT_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            raise EngineError(f"A refit has not ended within {REFIT_CLOSE_TIMEOUT_S:.0f} seconds; the engine is left as it is.")

    def _run_refits(self) -> None:
        while True:
            with self._state_changed:
                slot = self._find_idle_slot()
                while not self._stopped and (slot is None or self._current.value is self._requested):
                    self._state_changed.wait()
                    slot = self._find_idle_slot()
                if self._stopped or slot is None:
                    return
                value, self._refitting = self._requested, True
            failure: BaseException | None = None
            try:
                self._refit(slot, value)
            except BaseException as error:  # of whatever kind, it belongs to whoever asks for frames
                failure = error
            with self._state_changed:
                self._refitting = False
                if (
                    failure is None and self._current.value is not self._requested
                ):  # else what shows was asked for again meanwhile
                    self._current = CurrentWeights(self._current.generation + 1, slot, value)
                if failure is not None:
                    self._failure = failure
                    if self._requested is value:  # a request that came meanwhile stays
                        self._requested = self._current.value
                self._state_changed.notify_all()

    def _find_idle_slot(self) -> int | None:
        """A slot that neither shows nor is in a frame; None if there is none. A slot whose refit failed is one of them:
        nothing shows it before it was refitted whole."""
        idle = (slot for slot, pins in enumerate(self._frames_in_slot) if pins == 0 and slot != self._current.slot)
        return next(idle, None)

"""Swap: which set of weights a frame uses, and when a set may be rewritten.

    request(value)          any thread, at once; the newest wins
    with frame() as live:   the newest requested value is live before the frame begins, and its slot stays untouched until it ends

The blend happens at the frame boundary, not in the request: a slider that sends a thousand values between two frames costs
one blend. `live` is one immutable object, taken once per frame; that is the single point at which a change becomes visible. A slot
with a frame in it is pinned and is never refitted.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from dni_deploy.errors import EngineError, UsageError

Value = TypeVar("Value")


@dataclass(frozen=True)
class CurrentWeights(Generic[Value]):
    """What a frame is made with: the generation grows by one at each swap and never goes back."""

    generation: int
    slot: int
    value: Value


class SyncRefit(Generic[Value]):
    """slots: how many sets of weights there are; refit(slot, value): put the value into a slot, raise if that fails."""

    def __init__(self, slots: int, refit: Callable[[int, Value], None], initial: Value) -> None:
        self._refit = refit
        self._frames_in_slot = [0] * slots
        self._state_changed = threading.Condition()
        self._request_lock = threading.Lock()  # held for an assignment, never for a refit: a request must not wait for one
        self._requested: Value = initial
        self._last_applied: Value = initial
        refit(0, initial)
        self._current: CurrentWeights[Value] | None = CurrentWeights(1, 0, initial)
        self._generation = 1

    @property
    def requested(self) -> Value:
        """The newest requested value."""
        return self._requested

    @property
    def generation(self) -> int:
        """How many values have been live; 1 after the first."""
        return self._generation

    def request(self, value: Value) -> None:
        """Make `value` the one for every frame that begins after this returns. Never waits for a frame or a refit."""
        with self._request_lock:
            self._requested = value

    @contextmanager
    def hold_current(self) -> Iterator[CurrentWeights[Value]]:
        """Hold the newest value's slot for one frame. Raises what refit raised; the value before stays in force then."""
        live = self._acquire_current()
        try:
            yield live
        finally:
            with self._state_changed:
                self._frames_in_slot[live.slot] -= 1
                self._state_changed.notify_all()

    def _acquire_current(self) -> CurrentWeights[Value]:
        with self._state_changed:
            while True:
                wanted, live = self._requested, self._current
                if live is not None and live.value is wanted:
                    break
                slot = self._find_free_slot(live)
                if slot is None:
                    self._state_changed.wait()
                    continue
                live = self._apply_value(slot, wanted)
                break
            self._frames_in_slot[live.slot] += 1
            return live

    def _find_free_slot(self, current: CurrentWeights[Value] | None) -> int | None:
        """A slot that no frame uses, not the live one where there is a choice; None if all are in use."""
        free = [slot for slot, pins in enumerate(self._frames_in_slot) if pins == 0]
        if current is not None and len(self._frames_in_slot) > 1:
            free = [slot for slot in free if slot != current.slot]
        return free[0] if free else None

    def _apply_value(self, slot: int, value: Value) -> CurrentWeights[Value]:
        try:
            self._refit(slot, value)
        except BaseException:
            with self._request_lock:
                if self._requested is value:  # a request that came meanwhile stays
                    self._requested = self._last_applied
            if self._current is not None and self._current.slot == slot:
                self._current = None  # the only slot is half written: the next frame refits it whole
            raise
        self._last_applied = value
        self._generation += 1
        self._current = CurrentWeights(self._generation, slot, value)
        return self._current


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

"""Swap: which set of weights a frame uses, and when a set may be rewritten.

    request(value)          any thread, at once; the newest wins
    with frame() as live:   the newest requested value is live before the frame begins, and its slot stays untouched until it ends

The blend happens at the frame boundary, not in the request: a slider that sends a thousand values between two frames costs
one blend. `live` is one immutable object, taken once per frame; that is the single point at which a change becomes visible. A slot
with a frame in it is pinned and is never refitted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

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

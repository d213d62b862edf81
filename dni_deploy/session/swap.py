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
class Live(Generic[Value]):
    """What a frame is made with: the generation grows by one at each swap and never goes back."""

    generation: int
    slot: int
    value: Value


class Swap(Generic[Value]):
    """slots: how many sets of weights there are; refit(slot, value): put the value into a slot, raise if that fails."""

    def __init__(self, slots: int, refit: Callable[[int, Value], None], first: Value) -> None:
        self._refit = refit
        self._pins = [0] * slots
        self._changed = threading.Condition()
        self._mailbox = threading.Lock()  # held for an assignment, never for a refit: a request must not wait for one
        self._wanted: Value = first
        self._kept: Value = first
        refit(0, first)
        self._live: Live[Value] | None = Live(1, 0, first)
        self._generation = 1

    @property
    def wanted(self) -> Value:
        """The newest requested value."""
        return self._wanted

    @property
    def generation(self) -> int:
        """How many values have been live; 1 after the first."""
        return self._generation

    def request(self, value: Value) -> None:
        """Make `value` the one for every frame that begins after this returns. Never waits for a frame or a refit."""
        with self._mailbox:
            self._wanted = value

    @contextmanager
    def frame(self) -> Iterator[Live[Value]]:
        """Hold the newest value's slot for one frame. Raises what refit raised; the value before stays in force then."""
        live = self._enter()
        try:
            yield live
        finally:
            with self._changed:
                self._pins[live.slot] -= 1
                self._changed.notify_all()

    def _enter(self) -> Live[Value]:
        with self._changed:
            while True:
                wanted, live = self._wanted, self._live
                if live is not None and live.value is wanted:
                    break
                slot = self._free(live)
                if slot is None:
                    self._changed.wait()
                    continue
                live = self._swap(slot, wanted)
                break
            self._pins[live.slot] += 1
            return live

    def _free(self, live: Live[Value] | None) -> int | None:
        """A slot that no frame uses, not the live one where there is a choice; None if all are in use."""
        free = [slot for slot, pins in enumerate(self._pins) if pins == 0]
        if live is not None and len(self._pins) > 1:
            free = [slot for slot in free if slot != live.slot]
        return free[0] if free else None

    def _swap(self, slot: int, wanted: Value) -> Live[Value]:
        try:
            self._refit(slot, wanted)
        except BaseException:
            with self._mailbox:
                if self._wanted is wanted:  # a request that came meanwhile stays
                    self._wanted = self._kept
            if self._live is not None and self._live.slot == slot:
                self._live = None  # the only slot is half written: the next frame refits it whole
            raise
        self._kept = wanted
        self._generation += 1
        self._live = Live(self._generation, slot, wanted)
        return self._live

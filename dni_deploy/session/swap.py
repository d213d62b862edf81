"""Which set of weights a frame uses, and when a set may be refitted.

    request(value)                  any thread, at once; the newest wins
    with hold_current() as weights: the frame's weights, whose slot stays untouched until the frame ends
    with hold(value) as weights:    the same for a frame that brings a value of its own, which nobody else sees

The weights of a frame are one immutable object, read once per frame; that is the single point at which a change becomes
visible. A slot with a frame in it is in use and is never refitted.
"""

from __future__ import annotations

import atexit
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from dni_deploy.errors import EngineError, UsageError

Value = TypeVar("Value")


@dataclass(frozen=True)
class CurrentWeights(Generic[Value]):
    """The weights that a frame is rendered with.

    Attributes:
        generation: Number of the refit that made them, from 1; every refit gets the next one.
        slot: The set of weights.
        value: What the set was refitted with.
    """

    generation: int
    slot: int
    value: Value


class RefitStrategy(ABC, Generic[Value]):
    """Hands the current weights to frames and refits other sets of weights with what is requested.

    Thread safety: any thread may call any method.
    """

    def __init__(self, slots: int, refit: Callable[[int, Value], None], initial: Value) -> None:
        """Refits slot 0 with the first value, in the calling thread.

        Args:
            slots: Number of sets of weights.
            refit: Puts a value into a slot; raises if that fails.
            initial: The first value.
        """
        self._refit = refit
        self._frames_in_slot = [0] * slots
        self._weights_in_slot: list[CurrentWeights[Value] | None] = [None] * slots
        self._generation = self._current_generation = 0
        self._state_changed = threading.Condition()
        self._requested: Value = initial
        refit(0, initial)
        self._current_generation = self._store_weights(0, initial).generation

    @property
    def requested_value(self) -> Value:
        """The newest requested value that has not failed."""
        return self._requested

    @property
    def generation(self) -> int:
        """Number of the refit of the newest value that was requested and became current."""
        return self._current_generation

    @abstractmethod
    def request(self, value: Value) -> None:
        """Requests a value for the frames to come; never waits for a frame or a refit."""

    def hold_current(self) -> AbstractContextManager[CurrentWeights[Value]]:
        """Holds the current weights for one frame; raises what a refit raised, the value before then stays in force.

        Returns:
            A context that yields the weights; their slot stays untouched inside it.
        """
        return self._hold_acquired(self._acquire_current)

    def hold(self, value: Value) -> AbstractContextManager[CurrentWeights[Value]]:
        """Holds weights with this value for one frame, whatever is requested; raises what their refit raised.

        The frame waits for a free slot and a refit where no slot has the value. Frames without a value of their own stay with
        the requested one: with one slot the next of them waits for it to be refitted again.

        Returns:
            A context that yields the weights; their slot stays untouched inside it.
        """
        return self._hold_acquired(lambda: self._acquire_value(value))

    @contextmanager
    def _hold_acquired(self, acquire: Callable[[], CurrentWeights[Value]]) -> Iterator[CurrentWeights[Value]]:
        with self._state_changed:
            weights = acquire()
            self._frames_in_slot[weights.slot] += 1
        try:
            yield weights
        finally:
            with self._state_changed:
                self._frames_in_slot[weights.slot] -= 1
                self._state_changed.notify_all()

    @abstractmethod
    def _acquire_current(self) -> CurrentWeights[Value]:
        """The weights of the frame that begins; called with `_state_changed` held."""

    @abstractmethod
    def _acquire_value(self, value: Value) -> CurrentWeights[Value]:
        """Weights with this value; called with `_state_changed` held, once."""

    def _find_weights(self, value: Value) -> CurrentWeights[Value] | None:
        return next((weights for weights in self._weights_in_slot if weights is not None and weights.value == value), None)

    def _find_free_slot(self, current: CurrentWeights[Value] | None) -> int | None:
        """The slot that no frame uses and whose weights are oldest, not the current one where there is a choice, or None."""
        current_slot = current.slot if current is not None and len(self._frames_in_slot) > 1 else None
        free = [slot for slot, count in enumerate(self._frames_in_slot) if count == 0 and slot != current_slot]
        return min(free, key=self._find_generation, default=None)

    def _find_generation(self, slot: int) -> int:
        weights = self._weights_in_slot[slot]
        return 0 if weights is None else weights.generation

    def _store_weights(self, slot: int, value: Value) -> CurrentWeights[Value]:
        """Notes what a refit has put into a slot."""
        self._generation += 1
        weights = CurrentWeights(self._generation, slot, value)
        self._weights_in_slot[slot] = weights
        return weights


class SyncRefit(RefitStrategy[Value]):
    """Refits at the frame boundary: the newest requested value is applied before the next frame begins, which waits for it.

    The blend happens at the frame boundary, not in the request: a slider that sends a thousand values between two frames costs
    one blend.
    """

    def __init__(self, slots: int, refit: Callable[[int, Value], None], initial: Value) -> None:
        """Refits slot 0 with the first value, in the calling thread; the arguments are those of `RefitStrategy`."""
        super().__init__(slots, refit, initial)
        self._request_lock = threading.Lock()  # held for an assignment, never for a refit: a request must not wait for one
        self._last_applied: Value = initial
        self._current: CurrentWeights[Value] | None = self._weights_in_slot[0]

    def request(self, value: Value) -> None:
        """Makes `value` the one for every frame that begins after this returns; never waits for a frame or a refit."""
        with self._request_lock:
            self._requested = value

    def _acquire_current(self) -> CurrentWeights[Value]:
        while True:
            requested, current = self._requested, self._current
            if current is not None and current.value is requested:
                return current
            slot = self._find_free_slot(current)
            if slot is not None:
                return self._apply_value(slot, requested)
            self._state_changed.wait()

    def _apply_value(self, slot: int, value: Value) -> CurrentWeights[Value]:
        try:
            self._current = self._refit_slot(slot, value)
        except BaseException:
            with self._request_lock:
                if self._requested is value:  # a request that came meanwhile stays
                    self._requested = self._last_applied
            raise
        self._last_applied, self._current_generation = value, self._current.generation
        return self._current

    def _acquire_value(self, value: Value) -> CurrentWeights[Value]:
        while (weights := self._find_weights(value)) is None:
            slot = self._find_free_slot(self._current)
            if slot is not None:
                return self._refit_slot(slot, value)
            self._state_changed.wait()
        return weights

    def _refit_slot(self, slot: int, value: Value) -> CurrentWeights[Value]:
        self._weights_in_slot[slot] = None
        if self._current is not None and self._current.slot == slot:
            self._current = None  # the only slot: the next frame without a value of its own refits it whole
        self._refit(slot, value)
        return self._store_weights(slot, value)


REFIT_CLOSE_TIMEOUT_S = 60.0
"""How long close waits for a refit that is running; the slowest seen, RRDBNet through TensorRT 8.6, takes a few seconds."""


class AsyncRefit(RefitStrategy[Value]):
    """Refits in a thread of its own (double buffering): no frame waits for it, and a change shows once its refit has ended.

    `hold_current` never waits. It raises, once, what a refit raised since the last frame (the newest, if several did).
    """

    def __init__(self, slots: int, refit: Callable[[int, Value], None], initial: Value) -> None:
        """Refits slot 0 with the first value in the calling thread, and starts the thread that refits all others.

        Args:
            slots: Number of sets of weights, at least 2.
            refit: Puts a value into a slot and returns when a frame on it waits for nothing; raises if that fails.
            initial: The first value.

        Raises:
            UsageError: There are fewer than 2 slots.
        """
        if slots < 2:
            raise UsageError("Refitting ahead needs an engine with 2 sets of weights: one for frames, one to refit meanwhile.")
        super().__init__(slots, refit, initial)
        self._current = CurrentWeights(self._generation, 0, initial)
        self._failure: BaseException | None = None
        self._stopped = self._refitting = False
        self._thread = threading.Thread(target=self._run_refits, name="dni-deploy refit", daemon=True)
        self._thread.start()
        # The interpreter must not end under a refit that is running: a device would be left in the middle of a call.
        atexit.register(self.close)

    def request(self, value: Value) -> None:
        """Has `value` refitted, and shown from the first frame that begins after that; never waits for a frame or a refit."""
        with self._state_changed:
            self._requested = value
            self._state_changed.notify_all()

    def _acquire_current(self) -> CurrentWeights[Value]:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._current

    def _acquire_value(self, value: Value) -> CurrentWeights[Value]:
        while (weights := self._find_weights(value)) is None:
            slot = None if self._refitting else self._find_free_slot(self._current)
            if slot is None:
                self._state_changed.wait()
                continue
            # Frames that bring no value must not wait meanwhile: the refit runs without the lock, and the slot counts as in use.
            self._refitting, self._weights_in_slot[slot] = True, None
            self._frames_in_slot[slot] += 1
            self._state_changed.release()
            try:
                self._refit(slot, value)
            finally:
                self._state_changed.acquire()
                self._refitting = False
                self._frames_in_slot[slot] -= 1
                self._state_changed.notify_all()
            return self._store_weights(slot, value)
        return weights

    def wait_until_applied(self, timeout: float | None = None) -> bool:
        """Waits until the newest requested value is current or has failed, or the thread has ended.

        Args:
            timeout: In seconds; None waits without limit.

        Returns:
            Whether that was in time.
        """
        with self._state_changed:
            return self._state_changed.wait_for(
                lambda: self._stopped or (not self._refitting and self._current.value is self._requested), timeout
            )

    def close(self) -> None:
        """Ends the thread, after the refit that is running; what was not begun is dropped. Calling it again does nothing.

        Raises:
            EngineError: That refit does not end; the engine must not be freed under it then.
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
                # A slot whose refit failed is free, too: nothing shows it before it was refitted whole.
                while not self._stopped and (
                    self._refitting
                    or (slot := self._find_free_slot(self._current)) is None
                    or self._current.value is self._requested
                ):
                    self._state_changed.wait()
                if self._stopped or slot is None:
                    return
                value, self._refitting = self._requested, True
                self._weights_in_slot[slot] = None
            failure: BaseException | None = None
            try:
                self._refit(slot, value)
            except BaseException as error:  # of whatever kind, the next frame raises it
                failure = error
            with self._state_changed:
                self._refitting = False
                if failure is not None:
                    self._failure = failure
                    if self._requested is value:  # a request that came meanwhile stays
                        self._requested = self._current.value
                else:
                    weights = self._store_weights(slot, value)
                    if self._current.value is not self._requested:  # else the current value was requested again meanwhile
                        self._current, self._current_generation = weights, weights.generation
                self._state_changed.notify_all()

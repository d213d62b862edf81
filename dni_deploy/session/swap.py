"""Which set of weights a frame uses, and when a set may be refitted.

    request(value)                  any thread or signal handler, at once; the newest wins
    use(work)                       work(weights) with the frame's weights, whose slot stays untouched until the frame ends
    use(work, value)                the same for a frame that brings a value of its own, which nobody else sees

The weights of a frame are one immutable object, read once per frame; that is the single point at which a change becomes
visible. A slot with a frame in it is in use and is never refitted.

KeyboardInterrupt may fall between any two steps of the main thread. A frame's slot is therefore noted under a token that exists
before it is taken, and given back by one call of a C function, before which there is no such moment.
"""

from __future__ import annotations

import atexit
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from dni_deploy.errors import EngineError, UsageError
from dni_deploy.session.condition import POLL_INTERVAL_S, InterruptibleCondition

Value = TypeVar("Value")
Result = TypeVar("Result")


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
        self._slots = slots
        self._slot_by_token: dict[object, int] = {}
        self._weights_in_slot: list[CurrentWeights[Value] | None] = [None] * slots
        self._generation = self._current_generation = 0
        self._state_changed = InterruptibleCondition()
        refit(0, initial)
        self._current_generation = self._store_weights(0, initial).generation

    @property
    @abstractmethod
    def requested_value(self) -> Value:
        """The newest requested value that has not failed."""

    @property
    def generation(self) -> int:
        """Number of the refit of the newest value that was requested and became current."""
        return self._current_generation

    @abstractmethod
    def request(self, value: Value) -> None:
        """Requests a value for the frames to come; never waits for a frame or a refit."""

    def use(self, work: Callable[[CurrentWeights[Value]], Result], value: Value | None = None) -> Result:
        """Calls a function with the weights of one frame, whose slot stays untouched until it returns.

        Args:
            work: The function.
            value: As in `acquire`.

        Returns:
            What it returns.

        Raises:
            Exception: What it raises, or as `acquire`.
        """
        token = object()
        try:
            return work(self.acquire(token, value))
        finally:
            self._slot_by_token.pop(token, None)  # at once: between this and the work no exception can fall
            self._state_changed.notify_all()

    def acquire(self, token: object, value: Value | None = None) -> CurrentWeights[Value]:
        """Returns the weights of a frame that begins; their slot stays untouched until `release`.

        A frame with a value of its own waits for a free slot and a refit where no slot has the value. Frames without one stay with
        the requested one: with one slot the next of them waits for it to be refitted again.

        Args:
            token: What `release` gets, also where this raises.
            value: The frame's own value, which nobody else sees; None: what is current.

        Raises:
            Exception: What a refit raised; the value before then stays in force.
        """
        if value is not None:
            return self._acquire_value(token, value)
        with self._state_changed:
            weights = self._acquire_current()
            self._slot_by_token[token] = weights.slot
            return weights

    def release(self, token: object) -> None:
        """Ends a frame; once it was ended, this does nothing."""
        self._slot_by_token.pop(token, None)
        self._state_changed.notify_all()

    @contextmanager
    def hold_current(self) -> Iterator[CurrentWeights[Value]]:
        """Yields the current weights, whose slot stays untouched within the block; not for where KeyboardInterrupt is caught."""
        token = object()
        try:
            yield self.acquire(token)
        finally:
            self.release(token)

    @property
    def _frames_in_slot(self) -> list[int]:
        slots = list(self._slot_by_token.values())
        return [slots.count(slot) for slot in range(self._slots)]

    @abstractmethod
    def _acquire_current(self) -> CurrentWeights[Value]:
        """The weights of the frame that begins; called with `_state_changed` held."""

    @abstractmethod
    def _acquire_value(self, token: object, value: Value) -> CurrentWeights[Value]:
        """Weights with this value, noted under the token."""

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
        self._last_applied: Value = initial
        self._request = (initial,)  # in a tuple of its own, so that a value can be requested again after it failed
        self._failed_request: tuple[Value] | None = None
        self._current: CurrentWeights[Value] | None = self._weights_in_slot[0]

    def request(self, value: Value) -> None:
        """Makes `value` the one for every frame that begins after this returns; never waits for a frame or a refit."""
        self._request = (value,)  # nothing else: a signal's handler may interrupt this, and do the same

    @property
    def requested_value(self) -> Value:
        """The newest requested value that has not failed."""
        request = self._request
        return self._last_applied if request is self._failed_request else request[0]

    def _acquire_current(self) -> CurrentWeights[Value]:
        while True:
            requested, current = self.requested_value, self._current
            if current is not None and current.value is requested:
                return current
            slot = self._find_free_slot(current)
            if slot is not None:
                return self._apply_value(slot, requested)
            self._state_changed.wait(POLL_INTERVAL_S)

    def _apply_value(self, slot: int, value: Value) -> CurrentWeights[Value]:
        try:
            self._current = self._refit_slot(slot, value)
        except Exception:  # not KeyboardInterrupt: the next frame tries again
            request = self._request
            if request[0] is value:  # a request that came meanwhile stays, and so does a failed one that this was to repair
                self._failed_request = request
            raise
        self._last_applied, self._current_generation = value, self._current.generation
        return self._current

    def _acquire_value(self, token: object, value: Value) -> CurrentWeights[Value]:
        with self._state_changed:
            while (weights := self._find_weights(value)) is None:
                slot = self._find_free_slot(self._current)
                if slot is not None:
                    weights = self._refit_slot(slot, value)
                    break
                self._state_changed.wait(POLL_INTERVAL_S)
            self._slot_by_token[token] = weights.slot
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
        self._requested: Value = initial
        self._failure: BaseException | None = None
        self._stopped = False
        self._refitting: object | None = None  # whose refit is running: the token of a frame, or this thread
        self._thread = threading.Thread(target=self._run_refits, name="dni-deploy refit", daemon=True)
        self._thread.start()
        # The interpreter must not end under a refit that is running: a device would be left in the middle of a call.
        atexit.register(self.close)

    def request(self, value: Value) -> None:
        """Has `value` refitted, and shown from the first frame that begins after that; never waits for a frame or a refit."""
        with self._state_changed:
            self._requested = value
            self._state_changed.notify_all()

    @property
    def requested_value(self) -> Value:
        """The newest requested value that has not failed."""
        return self._requested

    def _acquire_current(self) -> CurrentWeights[Value]:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._current

    def _acquire_value(self, token: object, value: Value) -> CurrentWeights[Value]:
        try:
            with self._state_changed:
                while (weights := self._find_weights(value)) is None:
                    slot = self._find_free_slot(self._current) if self._refitting is None else None
                    if slot is not None:
                        self._refitting, self._weights_in_slot[slot] = token, None
                        break
                    self._state_changed.wait(POLL_INTERVAL_S)
                else:
                    slot = weights.slot
                self._slot_by_token[token] = slot
            if weights is not None:
                return weights
            # Without the lock: frames that bring no value must not wait meanwhile.
            self._refit(slot, value)
            with self._state_changed:
                return self._store_weights(slot, value)
        finally:
            if self._refitting is token:
                self._refitting = None
                self._state_changed.notify_all()

    def wait_until_applied(self, timeout: float | None = None) -> bool:
        """Waits until the newest requested value is current or has failed, or the thread has ended.

        Args:
            timeout: In seconds; None waits without limit.

        Returns:
            Whether that was in time.
        """
        with self._state_changed:
            return self._state_changed.wait_for(
                lambda: self._stopped or (self._refitting is None and self._current.value is self._requested), timeout
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
                    self._refitting is not None
                    or (slot := self._find_free_slot(self._current)) is None
                    or self._current.value is self._requested
                ):
                    self._state_changed.wait(POLL_INTERVAL_S)
                if self._stopped or slot is None:
                    return
                value, self._refitting = self._requested, self._thread
                self._weights_in_slot[slot] = None
            failure: BaseException | None = None
            try:
                self._refit(slot, value)
            except BaseException as error:  # of whatever kind, the next frame raises it
                failure = error
            with self._state_changed:
                self._refitting = None
                if failure is not None:
                    self._failure = failure
                    if self._requested is value:  # a request that came meanwhile stays
                        self._requested = self._current.value
                else:
                    weights = self._store_weights(slot, value)
                    if self._current.value is not self._requested:  # else the current value was requested again meanwhile
                        self._current, self._current_generation = weights, weights.generation
                self._state_changed.notify_all()

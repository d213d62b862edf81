"""The one place that holds the wanted alpha: any thread sets it, the newest wins, the frame loop reads it.

shared_alpha = SharedAlpha(session.members, session.alpha, slew=2.0)
shared_alpha.set_alpha({"psnr": 0.2, "gan": 0.8}, "osc")   # any thread
session.alpha = shared_alpha.at(seconds, frame)            # the frame loop
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.alpha.simplex import interpolate
from dni_deploy.errors import UsageError
from dni_deploy.network_controls import Control, ControlValues, check_values


class AlphaState(NamedTuple):
    """The alpha at one moment.

    Attributes:
        sequence: Number of changes so far; 0 before the first.
        coefficients: Coefficients that a frame gets now.
        requested: Coefficients that were set last; `coefficients` moves towards them while a slew limit is on the way.
        source: Who set them, or "".
        controls: Values of the network's controls by name; a slew limit is none for them.
    """

    sequence: int
    coefficients: Coefficients
    requested: Coefficients
    source: str
    controls: Mapping[str, float] = MappingProxyType({})


class SharedAlpha:
    """Holds the alpha of a running session, set from outside.

    Attributes:
        members: Names of the family's members, in family order.
        extrapolate: Whether coefficients may lie outside 0..1.
        slew: How far the coefficient that has farthest to go may move, in 1/s; None: at once.
        controls: What the network takes beside the image.

    Thread safety: any thread may call any method. Nothing here waits for a frame, and no frame waits for more than an
        assignment.
    """

    def __init__(
        self,
        members: Sequence[str],
        initial: Coefficients,
        *,
        slew: float | None = None,
        extrapolate: bool = False,
        controls: Sequence[Control] = (),
        control_values: ControlValues | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates a shared alpha.

        Args:
            members: Names of the family's members, in family order.
            initial: Coefficients to begin with.
            slew: Slew rate in 1/s; None changes alpha at once.
            extrapolate: Whether coefficients may lie outside 0..1.
            controls: What the network takes beside the image.
            control_values: Their values to begin with, of some of them; others have their defaults.
            clock: Returns seconds, for `read`.

        Raises:
            CoefficientsError: `initial` is not for these members.
            UsageError: `slew` is not above 0.
        """
        if slew is not None and not (math.isfinite(slew) and slew > 0):
            raise UsageError(f"The slew limit is a share per second above 0; got {slew:g}.")
        self.members = tuple(members)
        self.extrapolate = extrapolate
        self.slew = slew
        self._clock = clock
        self._changed = threading.Condition()
        initial = Coefficients.parse(initial, self.members, extrapolate=extrapolate)
        self.controls = tuple(controls)
        values = {control.name: control.default for control in self.controls} | check_values(controls, control_values or {})
        self._state = AlphaState(0, initial, initial, "", MappingProxyType(values))
        self._ramp_start = -math.inf  # when the way to `requested` began, by the clock
        self._last_read_time: float | None = None
        self._subscribers: list[Callable[[AlphaState], None]] = []

    @property
    def state(self) -> AlphaState:
        """The state as of the last read or change; advances nothing."""
        return self._state

    def set_alpha(self, alpha: Alpha, source: str = "", now: float | None = None) -> int:
        """Requests an alpha from now on.

        Args:
            alpha: The alpha.
            source: Who sets it.
            now: Time of the change by the clock of `read`, in seconds; None asks the clock.

        Returns:
            The sequence number of the change. Subscribers were called in this thread.

        Raises:
            CoefficientsError: The alpha cannot be used with this family; nothing has changed.
        """
        requested = Coefficients.parse(alpha, self.members, extrapolate=self.extrapolate)
        return self.update(lambda _: requested, source, now)

    def update(self, change: Callable[[Coefficients], Coefficients], source: str = "", now: float | None = None) -> int:
        """Requests what a function makes of the alpha that was requested before, with no other change between.

        Args:
            change: Returns the new coefficients for the old ones; must not use this object.
            source: As in `set_alpha`.
            now: As in `set_alpha`.

        Returns:
            The sequence number of the change.

        Raises:
            CoefficientsError: The new alpha cannot be used with this family; nothing has changed.
        """
        with self._changed:
            old = self._state
            requested = Coefficients.parse(change(old.requested), self.members, extrapolate=self.extrapolate)
            if old.coefficients == old.requested:
                self._ramp_start = self._clock() if now is None else now
            coefficients = requested if self.slew is None else old.coefficients
            state = AlphaState(old.sequence + 1, coefficients, requested, source, old.controls)
            subscribers = self._publish(state)
        for subscriber in subscribers:
            subscriber(state)
        return state.sequence

    def _publish(self, state: AlphaState) -> tuple[Callable[[AlphaState], None], ...]:
        """Makes a state the newest one, with the lock held; returns whom the caller has to tell of it without."""
        self._state = state
        self._changed.notify_all()
        return tuple(self._subscribers)

    def set_controls(self, values: ControlValues, source: str = "") -> int:
        """Sets some of the network's controls from now on.

        Args:
            values: By name.
            source: As in `set_alpha`.

        Returns:
            The sequence number of the change.

        Raises:
            UsageError: A name is no control's, or a value is no number in its range; nothing has changed.
        """
        checked = check_values(self.controls, values)
        with self._changed:
            old = self._state
            controls = MappingProxyType({**old.controls, **checked})
            state = old._replace(sequence=old.sequence + 1, source=source, controls=controls)
            subscribers = self._publish(state)
        for subscriber in subscribers:
            subscriber(state)
        return state.sequence

    def read(self, now: float | None = None) -> AlphaState:
        """Advances the coefficients by the clock, as far as the slew limit allows.

        Args:
            now: Time in seconds by the clock; None asks it.

        Returns:
            The state at this moment.
        """
        return self._advance(self._clock() if now is None else now, self._ramp_start)

    def at(self, seconds: float, frame: int) -> Coefficients:
        """Advances the coefficients by the time of the frames, as an AlphaSource does.

        A loop uses either this method or `read`: they count by different clocks.

        Args:
            seconds: Time of the frame.
            frame: Its number; not used.

        Returns:
            The coefficients of the frame.
        """
        return self._advance(seconds, -math.inf).coefficients

    def _advance(self, now: float, ramp_start: float) -> AlphaState:
        if self.slew is None:
            return self._state
        with self._changed:
            state = self._state
            last, self._last_read_time = self._last_read_time, now
            if state.coefficients == state.requested or last is None:
                return state
            step = self.slew * max(0.0, now - max(last, ramp_start))
            pairs = zip(state.coefficients.values, state.requested.values, strict=True)
            distance = max(abs(end - start) for start, end in pairs)
            reached = interpolate(state.coefficients, state.requested, 1.0 if step >= distance else step / distance)
            self._state = state._replace(coefficients=reached)
            return self._state

    def subscribe(self, subscriber: Callable[[AlphaState], None]) -> Callable[[], None]:
        """Calls a function after every change, in the thread that made it.

        Of two changes at once the order of the calls may be reversed: the higher sequence number is the newer one.

        Args:
            subscriber: Takes the new state.

        Returns:
            A function that ends the subscription.
        """
        with self._changed:
            self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._changed:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

        return unsubscribe

    def wait_for_change(self, sequence: int, timeout: float | None = None) -> AlphaState | None:
        """Waits for a change that is newer than `sequence`.

        Args:
            sequence: Number of a change that is known.
            timeout: Seconds to wait; None without end.

        Returns:
            The state, or None if nothing changed in time.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._state.sequence > sequence, timeout):
                return self._state
        return None

"""SharedAlpha: the one place that holds the wanted alpha. Any thread sets it, the newest wins, the frame loop reads it.

cell = SharedAlpha(session.members, session.alpha, slew=2.0)
cell.set({"psnr": 0.2, "gan": 0.8}, "osc")   # any thread
session.alpha = cell.at(seconds, frame)      # the frame loop
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.alpha.simplex import interpolate
from dni_deploy.errors import UsageError


class AlphaState(NamedTuple):
    """What the cell holds: the number of the newest set (0: none yet), the coefficients now, those on the way to, who set them."""

    sequence: int
    coefficients: Coefficients
    requested: Coefficients
    source: str


class SharedAlpha:
    """Thread-safe. Nothing here waits for a frame, and no frame waits for more than an assignment."""

    def __init__(
        self,
        members: Sequence[str],
        initial: Coefficients,
        *,
        slew: float | None = None,
        extrapolate: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """slew: how far the share that has farthest to go may move in a second; None: at once.

        Raises CoefficientsError (first is not for these members), UsageError (slew is not above 0).
        """
        if slew is not None and not (math.isfinite(slew) and slew > 0):
            raise UsageError(f"The slew limit is a share per second above 0; got {slew:g}.")
        self.members = tuple(members)
        self.extrapolate = extrapolate
        self.slew = slew
        self._clock = clock
        self._changed = threading.Condition()
        initial = Coefficients.parse(initial, self.members, extrapolate=extrapolate)
        self._state = AlphaState(0, initial, initial, "")
        self._ramp_start = -math.inf  # when the way to `wanted` began, by the clock
        self._last_read_time: float | None = None  # the time of the last read
        self._subscribers: list[Callable[[AlphaState], None]] = []

    @property
    def state(self) -> AlphaState:
        """What the cell holds, as it was at the last read or set; moves nothing."""
        return self._state

    def set_alpha(self, alpha: Alpha, source: str = "", now: float | None = None) -> int:
        """Want this alpha from now on; returns its sequence number. `now`: by the clock of `read`.

        Raises CoefficientsError at once, and nothing changes then. Subscribers are called in this thread before it returns.
        """
        wanted = Coefficients.parse(alpha, self.members, extrapolate=self.extrapolate)
        return self.update(lambda _: wanted, source, now)

    def update(self, change: Callable[[Coefficients], Coefficients], source: str = "", now: float | None = None) -> int:
        """Want what `change` makes of the alpha wanted so far, with no other set between; else as `set_alpha`."""
        with self._changed:
            old = self._state
            wanted = Coefficients.parse(change(old.requested), self.members, extrapolate=self.extrapolate)
            if old.coefficients == old.requested:
                self._ramp_start = self._clock() if now is None else now
            coefficients = wanted if self.slew is None else old.coefficients
            setting = self._state = AlphaState(old.sequence + 1, coefficients, wanted, source)
            subscribers = tuple(self._subscribers)
            self._changed.notify_all()
        for subscriber in subscribers:
            subscriber(setting)
        return setting.sequence

    def read(self, now: float | None = None) -> AlphaState:
        """The setting at this moment, in seconds by the cell's clock; with a slew limit, one step nearer to what is wanted."""
        return self._advance(self._clock() if now is None else now, self._ramp_start)

    def at(self, seconds: float, frame: int) -> Coefficients:
        """The cell as an AlphaSource: the slew limit counts seconds of the pictures, from frame to frame.

        A loop uses either this or `read`: they count by different clocks.
        """
        return self._advance(seconds, -math.inf).coefficients

    def _advance(self, now: float, ramp_start: float) -> AlphaState:
        if self.slew is None:
            return self._state
        with self._changed:
            setting = self._state
            last, self._last_read_time = self._last_read_time, now
            if setting.coefficients == setting.requested or last is None:
                return setting
            step = self.slew * max(0.0, now - max(last, ramp_start))
            way = max(abs(to - at) for at, to in zip(setting.coefficients.values, setting.requested.values, strict=True))
            reached = interpolate(setting.coefficients, setting.requested, 1.0 if step >= way else step / way)
            self._state = setting._replace(coefficients=reached)
            return self._state

    def subscribe(self, subscriber: Callable[[AlphaState], None]) -> Callable[[], None]:
        """Call it after every set, in the setter's thread; returns what ends that.

        Two sets at once may be told in the wrong order: the higher sequence is the newer one.
        """
        with self._changed:
            self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._changed:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

        return unsubscribe

    def wait_for_change(self, sequence: int, timeout: float | None = None) -> AlphaState | None:
        """Wait for a set newer than `sequence`; None if there was none in `timeout` seconds."""
        with self._changed:
            if self._changed.wait_for(lambda: self._state.sequence > sequence, timeout):
                return self._state
        return None

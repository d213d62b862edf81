"""AlphaCell: the one place that holds the wanted alpha. Any thread sets it, the newest wins, the frame loop reads it.

cell = AlphaCell(session.members, session.alpha, slew=2.0)
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
from dni_deploy.alpha.simplex import mixed
from dni_deploy.errors import UsageError


class Setting(NamedTuple):
    """What the cell holds: the number of the newest set (0: none yet), the coefficients now, those on the way to, who set them."""

    sequence: int
    coefficients: Coefficients
    wanted: Coefficients
    source: str


class AlphaCell:
    """Thread-safe. Nothing here waits for a frame, and no frame waits for more than an assignment."""

    def __init__(
        self,
        members: Sequence[str],
        first: Coefficients,
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
        first = Coefficients.parse(first, self.members, extrapolate=extrapolate)
        self._setting = Setting(0, first, first, "")
        self._since = -math.inf  # when the way to `wanted` began, by the clock
        self._last: float | None = None  # the time of the last read
        self._subscribers: list[Callable[[Setting], None]] = []

    @property
    def setting(self) -> Setting:
        """What the cell holds, as it was at the last read or set; moves nothing."""
        return self._setting

    def set(self, alpha: Alpha, source: str = "", now: float | None = None) -> int:
        """Want this alpha from now on; returns its sequence number. `now`: by the clock of `read`.

        Raises CoefficientsError at once, and nothing changes then. Subscribers are called in this thread before it returns.
        """
        wanted = Coefficients.parse(alpha, self.members, extrapolate=self.extrapolate)
        return self.update(lambda _: wanted, source, now)

    def update(self, change: Callable[[Coefficients], Coefficients], source: str = "", now: float | None = None) -> int:
        """Want what `change` makes of the alpha wanted so far, with no other set between; else as `set`."""
        with self._changed:
            old = self._setting
            wanted = Coefficients.parse(change(old.wanted), self.members, extrapolate=self.extrapolate)
            if old.coefficients == old.wanted:
                self._since = self._clock() if now is None else now
            coefficients = wanted if self.slew is None else old.coefficients
            setting = self._setting = Setting(old.sequence + 1, coefficients, wanted, source)
            subscribers = tuple(self._subscribers)
            self._changed.notify_all()
        for subscriber in subscribers:
            subscriber(setting)
        return setting.sequence

    def read(self, now: float | None = None) -> Setting:
        """The setting at this moment, in seconds by the cell's clock; with a slew limit, one step nearer to what is wanted."""
        return self._read(self._clock() if now is None else now, self._since)

    def at(self, seconds: float, frame: int) -> Coefficients:
        """The cell as an AlphaSource: the slew limit counts seconds of the pictures, from frame to frame.

        A loop uses either this or `read`: they count by different clocks.
        """
        return self._read(seconds, -math.inf).coefficients

    def _read(self, now: float, since: float) -> Setting:
        if self.slew is None:
            return self._setting
        with self._changed:
            setting = self._setting
            last, self._last = self._last, now
            if setting.coefficients == setting.wanted or last is None:
                return setting
            step = self.slew * max(0.0, now - max(last, since))
            way = max(abs(to - at) for at, to in zip(setting.coefficients.shares, setting.wanted.shares, strict=True))
            reached = mixed(setting.coefficients, setting.wanted, 1.0 if step >= way else step / way)
            self._setting = setting._replace(coefficients=reached)
            return self._setting

    def subscribe(self, subscriber: Callable[[Setting], None]) -> Callable[[], None]:
        """Call it after every set, in the setter's thread; returns what ends that.

        Two sets at once may be told in the wrong order: the higher sequence is the newer one.
        """
        with self._changed:
            self._subscribers.append(subscriber)

        def end() -> None:
            with self._changed:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

        return end

    def wait(self, sequence: int, timeout: float | None = None) -> Setting | None:
        """Wait for a set newer than `sequence`; None if there was none in `timeout` seconds."""
        with self._changed:
            if self._changed.wait_for(lambda: self._setting.sequence > sequence, timeout):
                return self._setting
        return None

"""Control: the alpha of each frame of a stream: constant, over time, or set from outside while it runs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Union

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.alpha.curves import AlphaCurve
from dni_deploy.alpha.plane_path import PlanePath
from dni_deploy.alpha.source import as_alpha_source, is_constant
from dni_deploy.alpha.timeline import AlphaSource, AlphaTimeline
from dni_deploy.control.open_listeners import ListenerOptions, open_listeners
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import UsageError

StreamAlpha = Union[Alpha, AlphaSource, "os.PathLike[str]", None]
"""An alpha; text or a file as open_alpha_source takes them; an AlphaSource; None: the first member alone."""


class FrameAlpha:
    """What a frame loop asks: the alpha of a frame by its number.

    source: constant, over time, or a cell. rate: frames per second, None where nobody says.
    """

    def __init__(self, source: AlphaSource, rate: Fraction | None = None) -> None:
        self.source, self.rate = source, rate

    @property
    def is_live(self) -> bool:
        """Whether the same frame made again may be another picture: alpha is set from outside, or by who knows what."""
        return not isinstance(self.source, AlphaTimeline | AlphaCurve | PlanePath)

    def at(self, frame: int) -> Coefficients:
        """The coefficients of a frame, whose time is its number over the frame rate."""
        if self.rate is None and isinstance(self.source, SharedAlpha):
            return self.source.read().coefficients  # a slew limit then counts seconds of the clock
        return self.source.at(0.0 if self.rate is None else self.frame_seconds(frame), frame)

    def frame_seconds(self, frame: int) -> float:
        """The time of a frame; NaN where there is no frame rate, and nobody's alpha asks for it."""
        return math.nan if self.rate is None else float(frame / self.rate)


def resolve_alpha_source(
    alpha: StreamAlpha, members: Sequence[str], *, rate: Fraction | None = None, extrapolate: bool = False
) -> AlphaSource:
    """The AlphaSource that is meant. rate: frames per second, None where nobody says.

    Raises UsageError (times in seconds and no rate), CoefficientsError (for other members), and what open_alpha_source does.
    """
    if alpha is None:
        return AlphaTimeline.from_coefficients(Coefficients.one_hot(members[0], members))
    source = as_alpha_source(alpha, members, fps=None if rate is None else float(rate), extrapolate=extrapolate)
    if rate is None and not is_constant(source) and _time_unit(source) == "seconds":
        raise UsageError(
            "The alpha counts seconds and there is no frame rate; give one (--fps, AssumeFPS), or count frames (75f)."
        )
    Coefficients.parse(source.at(0.0, 0), members, extrapolate=extrapolate)
    return source


def _time_unit(source: AlphaSource) -> str | None:
    """What it counts, "seconds" or "frames"; None where it does not tell."""
    return source.period.unit if isinstance(source, AlphaCurve) else getattr(source, "unit", None)


@contextmanager
def open_frame_alpha(
    members: Sequence[str],
    alpha: StreamAlpha = None,
    *,
    rate: Fraction | None = None,
    listeners: ListenerOptions | None = None,
    extrapolate: bool = False,
    note: Callable[[str], None] = lambda sentence: None,
) -> Iterator[FrameAlpha]:
    """The control of one stream; leaving the block closes its ports.

    listeners   what sets alpha from outside; `alpha` is then where the shared alpha begins, and must not change by itself.
    note        is told the ports, and what a message has wrong.
    Raises UsageError, BusyError (a port is taken), UnavailableError (python-osc is not installed; names the extra), and what
    resolve_alpha_source does.
    """
    source = resolve_alpha_source(alpha, members, rate=rate, extrapolate=extrapolate)
    listeners = listeners or ListenerOptions()
    live = listeners.is_live
    if listeners.slew is not None and (not live or isinstance(source, SharedAlpha)):
        raise UsageError("A slew limit is for live alpha; give a port with it (--osc, --http, --midi), or leave it out.")
    if live and not isinstance(source, SharedAlpha):
        if not is_constant(source):
            raise UsageError("An alpha over time and a live one exclude each other; give one alpha to start from.")
        source = SharedAlpha(members, source.at(0.0, 0), slew=listeners.slew, extrapolate=extrapolate)
    if isinstance(source, SharedAlpha):
        with open_listeners(source, listeners, note=note, report=note):
            yield FrameAlpha(source, rate)
    else:
        yield FrameAlpha(source, rate)

"""The alpha of each frame of a stream: constant, over time, or set from outside while it runs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from dni_deploy.network_controls import Control, ControlValues

StreamAlpha = Union[Alpha, AlphaSource, "os.PathLike[str]", None]
"""An alpha; text or a file as open_alpha_source reads them; an AlphaSource; None: the first member alone."""


class FrameAlpha:
    """Gives a frame loop the alpha of each frame by its number.

    Attributes:
        source: The alpha: constant, over time, or a SharedAlpha.
        rate: Frames per second; None where the stream does not say.
    """

    def __init__(self, source: AlphaSource, rate: Fraction | None = None) -> None:
        """Stores source and rate."""
        self.source, self.rate = source, rate

    @property
    def is_live(self) -> bool:
        """Whether a frame may look different when it is rendered again: alpha is set from outside, or by unknown code."""
        return not isinstance(self.source, AlphaTimeline | AlphaCurve | PlanePath)

    def at(self, frame: int) -> Coefficients:
        """Returns the coefficients of the frame of this number, whose time is its number over the frame rate."""
        if self.rate is None and isinstance(self.source, SharedAlpha):
            return self.source.read().coefficients  # a slew limit then counts seconds of the clock
        return self.source.at(0.0 if self.rate is None else self.frame_seconds(frame), frame)

    def read_controls(self) -> Mapping[str, float]:
        """Returns the values of the network's controls that are set from outside; empty where nothing sets them."""
        return self.source.state.controls if isinstance(self.source, SharedAlpha) else {}

    def frame_seconds(self, frame: int) -> float:
        """Returns the time of the frame of this number; NaN where there is no frame rate, and then no alpha asks for it."""
        return math.nan if self.rate is None else float(frame / self.rate)


def resolve_alpha_source(
    alpha: StreamAlpha, members: Sequence[str], *, rate: Fraction | None = None, extrapolate: bool = False
) -> AlphaSource:
    """Makes an AlphaSource of an alpha in any form.

    Args:
        alpha: The alpha.
        members: Names of the family's members, in family order.
        rate: Frames per second; None where the stream does not say.
        extrapolate: Whether coefficients may lie outside 0..1.

    Returns:
        The source.

    Raises:
        UsageError: Times are in seconds and there is no frame rate, or the text or file cannot be read.
        CoefficientsError: The alpha is for other members.
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
    """Returns what a source counts, "seconds" or "frames"; None where it does not say."""
    return source.period.unit if isinstance(source, AlphaCurve) else getattr(source, "unit", None)


@contextmanager
def open_frame_alpha(
    members: Sequence[str],
    alpha: StreamAlpha = None,
    *,
    rate: Fraction | None = None,
    listeners: ListenerOptions | None = None,
    extrapolate: bool = False,
    controls: Sequence[Control] = (),
    control_values: ControlValues | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> Iterator[FrameAlpha]:
    """Opens the alpha of one stream; leaving the block closes its listeners.

    Args:
        members: Names of the family's members, in family order.
        alpha: The alpha; with listeners, the one to begin with, which must not change by itself.
        rate: Frames per second; None where the stream does not say.
        listeners: What sets alpha from outside; None: nothing.
        extrapolate: Whether coefficients may lie outside 0..1.
        controls: What the network takes beside the image.
        control_values: As in SharedAlpha.
        note: Called with a sentence for each place that is listened to, and with what is wrong with a message.

    Yields:
        The alpha of each frame.

    Raises:
        UsageError: The options exclude each other, or as resolve_alpha_source says.
        CoefficientsError: The alpha is for other members.
        BusyError: A port is in use.
        UnavailableError: A package is missing; its extra is named.
    """
    source = resolve_alpha_source(alpha, members, rate=rate, extrapolate=extrapolate)
    listeners = listeners or ListenerOptions()
    live = listeners.is_live
    if listeners.slew is not None and (not live or isinstance(source, SharedAlpha)):
        raise UsageError("A slew limit is for live alpha; give a port with it (--osc, --http, --midi), or leave it out.")
    if live and not isinstance(source, SharedAlpha):
        if not is_constant(source):
            raise UsageError("An alpha over time and a live one exclude each other; give one alpha to start from.")
        source = SharedAlpha(
            members,
            source.at(0.0, 0),
            slew=listeners.slew,
            extrapolate=extrapolate,
            controls=controls,
            control_values=control_values,
        )
    if isinstance(source, SharedAlpha):
        with open_listeners(source, listeners, note=note, report=note):
            yield FrameAlpha(source, rate)
    else:
        yield FrameAlpha(source, rate)

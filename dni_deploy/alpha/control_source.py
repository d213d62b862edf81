"""The value of a control over time, in the words of an alpha over time.

Its number is read as the share of the first of two members, beyond 0 to 1 as well: "0:0.02, 5s:0.2; smooth" and
"sine(period=4s, from=0.02, to=0.2)" then mean the same for a control as for alpha.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.curves import AlphaCurve
from dni_deploy.alpha.source import open_alpha_source
from dni_deploy.alpha.timeline import AlphaTimeline
from dni_deploy.errors import CoefficientsError, UsageError, escape_name
from dni_deploy.network_controls import Control, ControlValues, find_control, parse_number

FRACTION_PATTERN = re.compile(r"(?<![\w.])\d+(?:\.\d+)?/\d+(?:\.\d+)?")


@dataclass(frozen=True)
class ControlSource:
    """A control's value for every frame.

    Attributes:
        control: The control.
        source: The numbers, as shares of the first of two members.
    """

    control: Control
    source: AlphaTimeline | AlphaCurve

    @classmethod
    def open(cls, control: Control, value: object, *, fps: float | None = None) -> ControlSource:
        """Reads a value, or a text of a timeline or a curve.

        Args:
            control: The control.
            value: A number; or a text such as "25/255", "0:0.02, 5s:0.2", "sine(period=4s, from=0.02, to=0.2)" or a path that
                ends in .json or .csv, as `open_alpha_source` reads them.
            fps: Frame rate, for what mixes seconds and frames.

        Raises:
            UsageError: The text is none of these, or a value is outside the control's range.
            InputError: The file is missing or damaged.
            LimitError: The text or file is too large.
        """
        members = (control.name, f"1-{control.name}")
        if not isinstance(value, str) or not math.isnan(parse_number(value)):
            number = control.check_value(value)
            return cls(control, AlphaTimeline.from_coefficients(Coefficients(members, (number, 1.0 - number))))
        text = FRACTION_PATTERN.sub(lambda match: repr(parse_number(match[0])), value)
        try:
            source = open_alpha_source(text, members, fps=fps, extrapolate=True)
        except CoefficientsError as error:
            raise UsageError(f"The control {control.name} over time: {error}") from None
        if not isinstance(source, (AlphaTimeline, AlphaCurve)):
            raise UsageError(f"The control {control.name} over time is a timeline or a curve, not {escape_name(value, 80)!r}.")
        for number in _list_extremes(source):
            control.check_value(number)
        return cls(control, source)

    @property
    def is_constant(self) -> bool:
        """Whether the value is the same for every frame."""
        return isinstance(self.source, AlphaTimeline) and len(self.source.times) == 1

    def at(self, seconds: float, frame: int) -> float:
        """Returns the value at a frame."""
        return self.source.at(seconds, frame).values[0]

    def to_json(self) -> Any:
        """Returns what decides the values of all frames."""
        return [self.source.kind, self.source.to_json()]


def open_control_sources(
    values: ControlValues, controls: Sequence[Control], *, fps: float | None = None
) -> Mapping[str, ControlSource]:
    """Opens the values of some controls over time, by name; the arguments and errors are those of `ControlSource.open`."""
    return {name: ControlSource.open(find_control(controls, name), value, fps=fps) for name, value in values.items()}


def _list_extremes(source: AlphaTimeline | AlphaCurve) -> list[float]:
    """Values between which all others lie: both are straight between them."""
    if isinstance(source, AlphaCurve):
        return [source.start.values[0], source.end.values[0]]
    return [float(number) for number in source.coefficients[:, 0]]

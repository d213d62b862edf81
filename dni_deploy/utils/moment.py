"""A time as it is written: seconds, a clock, or a frame."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from dni_deploy.errors import UsageError, escape_name

_CLOCK_PATTERN = re.compile(r"(?:(\d{1,9}):)?(\d{1,9}):([0-5]?\d(?:\.\d*)?)", re.ASCII)

_NUMBER_PATTERN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(s|f|)", re.ASCII | re.IGNORECASE)


class Moment(NamedTuple):
    """A time as it was written.

    Attributes:
        value: The number.
        unit: What it counts, "seconds" or "frames".
    """

    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.value:.12g}{self.unit[0]}"


def read_moment(text: str) -> Moment:
    """Reads 2.5, 2.5s, 1:02.5 (minutes), 1:00:02.5 (hours) or 75f (frames, from 0).

    Raises:
        UsageError: The text has none of these forms.
    """
    clock, number = _CLOCK_PATTERN.fullmatch(text.strip()), _NUMBER_PATTERN.fullmatch(text.strip())
    if clock:
        hours, minutes, seconds = clock.groups()
        moment = Moment(int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds), "seconds")
    elif number:
        moment = Moment(float(number[1]), "frames" if number[2].lower() == "f" else "seconds")
    else:
        raise UsageError(f"{escape_name(text.strip(), 60)!r} is not a time; write 2.5s, 1:02.5 or, in frames, 75f.")
    return validate_moment(moment)


def validate_moment(moment: Moment) -> Moment:
    """Returns the moment as it is.

    Raises:
        UsageError: It is no finite number from 0 on, or no whole one where it counts frames.
    """
    value, unit = moment
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"The time {value:g} is not a number from 0 on.")
    if unit == "frames" and value != int(value):
        raise UsageError(f"{value:g}f is not a frame; frames are counted in whole numbers from 0.")
    return moment

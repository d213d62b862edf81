"""Alpha that swings between two coefficients without end, for a stage.

"sine(period=4s, from=psnr, to=gan)", "triangle(period=100f, from=psnr=0.8,gan=0.2, to=gan, phase=0.25, offset=2s)"
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.keyframes import ALPHA_FILE_SCHEMA_VERSION, check_schema, convert_to_common_unit
from dni_deploy.alpha.member_names import find_member
from dni_deploy.alpha.simplex import interpolate
from dni_deploy.errors import CoefficientsError, UsageError, escape_name
from dni_deploy.utils.moment import Moment, read_moment

CURVE_SHAPES: dict[str, Callable[[float], float]] = {
    "sine": lambda turn: (1.0 - math.cos(2.0 * math.pi * turn)) / 2.0,
    "triangle": lambda turn: 1.0 - abs(1.0 - 2.0 * turn),
    "saw": lambda turn: turn,
    "square": lambda turn: 0.0 if turn < 0.5 else 1.0,
}
"""Fraction of the line from the first end to the second, by the fraction of the period that has passed, 0 <= turn < 1."""

_NO_OFFSET = Moment(0.0, "seconds")
_CALL_PATTERN = re.compile(r"\s*([a-z_]+)\s*\((.*)\)\s*", re.IGNORECASE | re.DOTALL)
_CURVE_KEYS = ("period", "from", "to", "phase", "offset")
_NEXT_KEY_PATTERN = re.compile(rf",\s*(?=(?:{'|'.join(_CURVE_KEYS)})\s*=)", re.IGNORECASE)


def is_curve(text: str) -> bool:
    """Tells whether a text is meant as a curve: a word and then a parenthesis."""
    return _CALL_PATTERN.fullmatch(text) is not None


@dataclass(frozen=True)
class AlphaCurve:
    """A periodic curve between two coefficients.

    Attributes:
        shape: A name of CURVE_SHAPES.
        start: The first end.
        end: The second end.
        period: Length of a period.
        phase: Fraction of a period, 0 to 1, by which the curve is ahead.
        offset: When the curve begins, in the unit of the period; until then it rests where it begins.
    """

    kind: ClassVar[str] = "AlphaCurve"

    shape: str
    start: Coefficients
    end: Coefficients
    period: Moment
    phase: float = 0.0
    offset: Moment = _NO_OFFSET

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            UsageError: There is no such shape, the period is not longer than 0, or the phase is not a finite number.
        """
        if self.shape not in CURVE_SHAPES:
            raise UsageError(f"There is no curve {escape_name(self.shape, 60)!r}; there are {', '.join(CURVE_SHAPES)}.")
        if not (math.isfinite(self.period.value) and self.period.value > 0):
            raise UsageError(f"The period of a curve is longer than 0; got {self.period}.")
        if not math.isfinite(self.phase):
            raise UsageError(f"The phase of a curve is a part of its period, 0 to 1; got {self.phase}.")

    @classmethod
    def parse(cls, text: str, members: Sequence[str], *, fps: float | None = None, extrapolate: bool = False) -> AlphaCurve:
        """Reads "sine(period=4s, from=psnr, to=gan)"; phase and offset may follow.

        Args:
            text: The curve. An end is a member or an alpha; of two members, from and to may be left out: from the first to the
                second. Times are written as in a timeline.
            members: Names of the family's members.
            fps: Frame rate; needed only where seconds and frames are mixed.
            extrapolate: Whether coefficients outside 0 to 1 are allowed.

        Returns:
            The curve.

        Raises:
            UsageError: The text is no curve.
            CoefficientsError: An end does not fit the family.
        """
        call = _CALL_PATTERN.fullmatch(text)
        if call is None:
            raise UsageError(f"{escape_name(text, 60)!r} is not a curve; write for example sine(period=4s, from=psnr, to=gan).")
        shape, fields = call[1].lower(), _parse_fields(call[2])
        if "period" not in fields:
            raise UsageError(f"The curve {shape} has no period; write for example period=4s.")
        if len(members) == 2:
            fields = {"from": members[0], "to": members[1], **fields}
        ends = []
        for key in ("from", "to"):
            if key not in fields:
                raise UsageError(f"The curve {shape} has no {key!r}; of {len(members)} members both ends are to be named.")
            alpha = fields[key].strip()
            try:
                member = find_member(alpha, members)
                ends.append(
                    Coefficients.parse(alpha, members, extrapolate=extrapolate)
                    if member is None
                    else Coefficients.one_hot(member, members)
                )
            except CoefficientsError as error:
                raise CoefficientsError(f"The curve's {key!r}: {error}") from None
        try:
            phase = float(fields.get("phase", "0"))
        except ValueError:
            raise UsageError(f"The curve's phase {escape_name(fields['phase'], 60)!r} is not a number.") from None
        moments = [read_moment(fields["period"])]
        moments.append(read_moment(fields["offset"]) if "offset" in fields else Moment(0.0, moments[0].unit))
        unit, (period, offset) = convert_to_common_unit(moments, fps, "curve")
        return cls(shape, ends[0], ends[1], Moment(period, unit), phase, Moment(offset, unit))

    @classmethod
    def from_json(
        cls, fields: object, members: Sequence[str], *, fps: float | None = None, extrapolate: bool = False
    ) -> AlphaCurve:
        """Reads {"schema": 1, "curve": "sine(period=4s, from=psnr, to=gan)"}; the rest is as in `parse`."""
        text = fields.get("curve") if isinstance(fields, dict) else None
        if not isinstance(fields, dict) or not isinstance(text, str):
            raise UsageError('a curve is an object with a text "curve".')
        check_schema(fields)
        return cls.parse(text, members, fps=fps, extrapolate=extrapolate)

    def to_json(self) -> dict[str, Any]:
        """Returns the curve as `from_json` reads it; numbers come back bit for bit."""
        return {"schema": ALPHA_FILE_SCHEMA_VERSION, "curve": str(self)}

    def __str__(self) -> str:
        start, end = (",".join(map(repr, point.values)) for point in (self.start, self.end))
        period, offset = (
            f"{moment.value!r}s" if moment.unit == "seconds" else f"{int(moment.value)}f"
            for moment in (self.period, self.offset)
        )
        return f"{self.shape}(period={period}, from={start}, to={end}, phase={self.phase!r}, offset={offset})"

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members, in family order."""
        return self.start.members

    def at(self, seconds: float, frame: int) -> Coefficients:
        """Computes the coefficients of a frame, on the straight line between the ends, as in AlphaSource.

        Raises:
            UsageError: The time is not a finite number.
        """
        position = float(frame) if self.period.unit == "frames" else float(seconds)
        if not math.isfinite(position):
            raise UsageError(f"The time of frame {frame} is {position}; it must be a finite number.")
        passed = math.fmod(max(0.0, position - self.offset.value), self.period.value) / self.period.value
        turn = (passed + self.phase) % 1.0
        return interpolate(self.start, self.end, CURVE_SHAPES[self.shape](turn if turn < 1.0 else 0.0))


def _parse_fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in _NEXT_KEY_PATTERN.split(text):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if not equals or key not in _CURVE_KEYS or not value.strip():
            raise UsageError(
                f"A curve has {', '.join(f'{name}=' for name in _CURVE_KEYS)}; got {escape_name(part.strip(), 60)!r}."
            )
        if key in fields:
            raise UsageError(f"The curve has {key!r} twice.")
        fields[key] = value
    return fields

"""AlphaCurve: alpha that swings between two coefficients without end, for a stage.

"sine(period=4s, from=psnr, to=gan)", "triangle(period=100f, from=psnr=0.8,gan=0.2, to=gan, phase=0.25, offset=2s)"
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.keyframes import ALPHA_FILE_SCHEMA_VERSION, Moment, read_moment
from dni_deploy.alpha.simplex import fill_missing_member, interpolate
from dni_deploy.errors import CoefficientsError, UsageError, escape_name

CURVE_SHAPES: dict[str, Callable[[float], float]] = {
    "sine": lambda turn: (1.0 - math.cos(2.0 * math.pi * turn)) / 2.0,
    "triangle": lambda turn: 1.0 - abs(1.0 - 2.0 * turn),
    "saw": lambda turn: turn,
    "square": lambda turn: 0.0 if turn < 0.5 else 1.0,
}
"""How far from the first end to the second: turn, 0 <= turn < 1, is the part of the period that has passed; 0 at its start."""

_NO_OFFSET = Moment(0.0, "seconds")
_CALL_PATTERN = re.compile(r"\s*([a-z_]+)\s*\((.*)\)\s*", re.IGNORECASE | re.DOTALL)
_CURVE_KEYS = ("period", "from", "to", "phase", "offset")
_NEXT_KEY_PATTERN = re.compile(rf",\s*(?=(?:{'|'.join(_CURVE_KEYS)})\s*=)", re.IGNORECASE)


def is_curve(text: str) -> bool:
    """Whether the text is meant as a curve: a word and then a parenthesis."""
    return _CALL_PATTERN.fullmatch(text) is not None


@dataclass(frozen=True)
class AlphaCurve:
    """shape: a name of CURVE_SHAPES; start and end: where it swings between; period and offset in one unit.

    phase   the part of a period, 0 to 1, that it is ahead.
    offset  when it begins; until then it rests where it begins.
    """

    kind: ClassVar[str] = "AlphaCurve"

    shape: str
    start: Coefficients
    end: Coefficients
    period: Moment
    phase: float = 0.0
    offset: Moment = _NO_OFFSET

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.shape not in CURVE_SHAPES:
            raise UsageError(f"There is no curve {escape_name(self.shape, 60)!r}; there are {', '.join(CURVE_SHAPES)}.")
        if not (math.isfinite(self.period.value) and self.period.value > 0):
            raise UsageError(f"The period of a curve is longer than 0; got {self.period}.")
        if not math.isfinite(self.phase):
            raise UsageError(f"The phase of a curve is a part of its period, 0 to 1; got {self.phase}.")

    @classmethod
    def parse(cls, text: str, members: Sequence[str], *, fps: float | None = None, extrapolate: bool = False) -> AlphaCurve:
        """Read "sine(period=4s, from=psnr, to=gan)"; phase and offset may follow, an end is a member or an alpha.

        Of two members, from and to may be left out: from the first to the second. Times as in a timeline.
        Raises UsageError, CoefficientsError.
        """
        call = _CALL_PATTERN.fullmatch(text)
        if call is None:
            raise UsageError(f"{escape_name(text, 60)!r} is not a curve; write for example sine(period=4s, from=psnr, to=gan).")
        shape, given = call[1].lower(), _parse_fields(call[2])
        if shape not in CURVE_SHAPES:
            raise UsageError(f"There is no curve {escape_name(shape, 60)!r}; there are {', '.join(CURVE_SHAPES)}.")
        if "period" not in given:
            raise UsageError(f"The curve {shape} has no period; write for example period=4s.")
        if len(members) == 2:
            given = {"from": members[0], "to": members[1], **given}
        ends = []
        for key in ("from", "to"):
            if key not in given:
                raise UsageError(f"The curve {shape} has no {key!r}; of {len(members)} members both ends are to be named.")
            try:
                alpha = given[key].strip()
                one = Coefficients.one_hot(alpha, members) if alpha in members else None
                ends.append(one or fill_missing_member(alpha, members, extrapolate=extrapolate))
            except CoefficientsError as error:
                raise CoefficientsError(f"The curve's {key!r}: {error}") from None
        try:
            phase = float(given.get("phase", "0"))
        except ValueError:
            raise UsageError(f"The curve's phase {escape_name(given['phase'], 60)!r} is not a number.") from None
        period = read_moment(given["period"])
        offset = read_moment(given["offset"]) if "offset" in given else Moment(0.0, period.unit)
        if period.unit != offset.unit:
            if fps is None or not (math.isfinite(fps) and fps > 0):
                raise UsageError("The curve mixes seconds and frames, and the frame rate is not known; use one of the two.")
            period, offset = _to_seconds(period, fps), _to_seconds(offset, fps)
        return cls(shape, ends[0], ends[1], period, phase, offset)

    @classmethod
    def from_json(
        cls, fields: object, members: Sequence[str], *, fps: float | None = None, extrapolate: bool = False
    ) -> AlphaCurve:
        """{"schema": 1, "curve": "sine(period=4s, from=psnr, to=gan)"}. Raises UsageError, CoefficientsError."""
        text = fields.get("curve") if isinstance(fields, dict) else None
        if not isinstance(fields, dict) or not isinstance(text, str):
            raise UsageError('a curve is an object with a text "curve".')
        if fields.get("schema", ALPHA_FILE_SCHEMA_VERSION) != ALPHA_FILE_SCHEMA_VERSION:
            raise UsageError(
                f"its schema is {escape_name(fields['schema'], 40)}; this version reads {ALPHA_FILE_SCHEMA_VERSION}."
            )
        return cls.parse(text, members, fps=fps, extrapolate=extrapolate)

    def to_json(self) -> dict[str, Any]:
        """As from_json takes it; numbers come back bit for bit."""
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
        return self.start.members

    def at(self, seconds: float, frame: int) -> Coefficients:
        """The coefficients of a frame, on the straight line between the ends. Raises UsageError for a time that is no number."""
        position = float(frame) if self.period.unit == "frames" else float(seconds)
        if not math.isfinite(position):
            raise UsageError(f"The time of frame {frame} is {position}; it must be a finite number.")
        passed = math.fmod(max(0.0, position - self.offset.value), self.period.value) / self.period.value
        turn = (passed + self.phase) % 1.0
        return interpolate(self.start, self.end, CURVE_SHAPES[self.shape](turn if turn < 1.0 else 0.0))


def _parse_fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in _NEXT_KEY_PATTERN.split(text):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if not equals or key not in _CURVE_KEYS or not value.strip():
            raise UsageError(
                f"A curve has {', '.join(f'{name}=' for name in _CURVE_KEYS)}; got {escape_name(part.strip(), 60)!r}."
            )
        if key in found:
            raise UsageError(f"The curve has {key!r} twice.")
        found[key] = value
    return found


def _to_seconds(moment: Moment, fps: float) -> Moment:
    return Moment(moment.value / fps, "seconds") if moment.unit == "frames" else moment

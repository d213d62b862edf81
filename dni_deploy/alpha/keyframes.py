"""Keyframes: moments and alphas as people write them, in a text, a JSON file or a CSV file; not yet checked against a family."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from dni_deploy.alpha.coefficients import Alpha
from dni_deploy.errors import LimitError, UsageError, escape_name
from dni_deploy.utils.text_file import MAX_TEXT_FILE_BYTES

ALPHA_FILE_SCHEMA_VERSION = 1

MAX_KEYFRAMES = 1_000_000
"""Nine hours of film with an alpha for each frame."""

INTERPOLATIONS = ("linear", "hold", "smooth")

_CLOCK_PATTERN = re.compile(r"(?:(\d{1,9}):)?(\d{1,9}):([0-5]?\d(?:\.\d*)?)", re.ASCII)

_NUMBER_PATTERN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(s|f|)", re.ASCII | re.IGNORECASE)


class Moment(NamedTuple):
    """A time as it was given: a number of "seconds" or of "frames"."""

    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.value:.12g}{self.unit[0]}"


def read_moment(text: str) -> Moment:
    """2.5, 2.5s, 1:02.5 (minutes), 1:00:02.5 (hours) or 75f (frames, from 0). Raises UsageError."""
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
    """Raises UsageError unless it is a finite number from 0 on, and a whole one where it counts frames."""
    value, unit = moment
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"The time {value:g} is not a number from 0 on.")
    if unit == "frames" and value != int(value):
        raise UsageError(f"{value:g}f is not a frame; frames are counted in whole numbers from 0.")
    return moment


@dataclass(frozen=True)
class ParsedKeyframes:
    """What was written: moments and alphas of one length, and what the file says besides; None where it says nothing.

    timed: False for one alpha without a time.
    """

    moments: list[Moment] = field(default_factory=list)
    alphas: list[Alpha] = field(default_factory=list)
    members: tuple[str, ...] | None = None
    interpolation: str | None = None
    loop: bool | None = None
    has_times: bool = True

    def add(self, moment: Moment, alpha: Alpha) -> None:
        if len(self.moments) >= MAX_KEYFRAMES:
            raise LimitError(f"A timeline has at most {MAX_KEYFRAMES:,} keyframes; this one has more.")
        self.moments.append(moment)
        self.alphas.append(alpha)


def from_text(text: str) -> ParsedKeyframes:
    """ "0:gan=0, 2.5s:gan=1, 4s:gan=0.3; smooth; loop": a time before the last colon begins a keyframe. Raises UsageError."""
    if len(text) > MAX_TEXT_FILE_BYTES:
        raise LimitError(f"The timeline has {len(text):,} characters; the limit is {MAX_TEXT_FILE_BYTES:,}.")
    body, *options = text.split(";")
    interpolation, loop = None, None
    for option in (option.strip().lower() for option in options):
        if option == "loop":
            loop = True
        elif option in INTERPOLATIONS:
            interpolation = option
        elif option:
            raise UsageError(f"A timeline may end with {', '.join(INTERPOLATIONS)} or loop; got {escape_name(option, 60)!r}.")
    written = ParsedKeyframes(interpolation=interpolation, loop=loop)
    if not body.strip():
        raise UsageError('The timeline is empty; write for example "0:gan=0, 2.5s:gan=1".')
    if ":" not in body:
        written = replace(written, has_times=False)
        written.add(Moment(0.0, "seconds"), body)
        return written
    shares: list[str] = []
    moment: Moment | None = None
    for piece in body.split(","):
        before, colon, share = piece.rpartition(":")
        if colon:
            if moment is not None:
                written.add(moment, ",".join(shares))
            shares, moment = [share], read_numbered_moment(len(written.moments), before)
        elif moment is None:
            raise UsageError(
                f"The timeline begins with {escape_name(piece.strip(), 60)!r}, which has no time; write 0:... first."
            )
        else:
            shares.append(piece)
    assert moment is not None  # there was a colon
    written.add(moment, ",".join(shares))
    return written


def read_numbered_moment(index: int, text: str, unit: str = "seconds") -> Moment:
    """read_moment, with the keyframe's number in the sentence; a bare number is in `unit`."""
    try:
        moment = read_moment(text)
        if unit == "frames" and text.strip()[-1:] not in ("s", "S") and ":" not in text:
            moment = validate_moment(Moment(moment.value, "frames"))
        return moment
    except UsageError as error:
        raise UsageError(f"Keyframe {index + 1}: {error}") from None


def from_json(fields: object) -> ParsedKeyframes:
    """{"schema": 1, "members": [...], "interpolation": ..., "loop": ..., "keyframes": [{"time": 0.0, "alpha": ...}]}.

    A keyframe has "time" (seconds, or a text such as "1:02.5") or "frame". Raises UsageError.
    """
    if not isinstance(fields, dict) or not isinstance(fields.get("keyframes"), list):
        raise UsageError('a timeline is an object with a list "keyframes".')
    unknown = set(fields) - {"schema", "members", "interpolation", "loop", "keyframes"}
    if unknown:
        raise UsageError(f"a timeline has no {escape_name(min(unknown))!r}.")
    if fields.get("schema", ALPHA_FILE_SCHEMA_VERSION) != ALPHA_FILE_SCHEMA_VERSION:
        raise UsageError(f"its schema is {escape_name(fields['schema'], 40)}; this version reads {ALPHA_FILE_SCHEMA_VERSION}.")
    members, loop = fields.get("members"), fields.get("loop")
    if members is not None and not (isinstance(members, list) and all(isinstance(name, str) for name in members)):
        raise UsageError('"members" is a list of names.')
    if loop is not None and not isinstance(loop, bool):
        raise UsageError('"loop" is true or false.')
    interpolation = fields.get("interpolation")
    written = ParsedKeyframes(members=None if members is None else tuple(members), interpolation=interpolation, loop=loop)
    for index, keyframe in enumerate(fields["keyframes"]):
        if not isinstance(keyframe, dict) or "alpha" not in keyframe:
            raise UsageError(f'Keyframe {index + 1} is not an object with "alpha" and either "time" or "frame".')
        written.add(read_json_moment(index, keyframe), keyframe["alpha"])
    return written


def read_json_moment(index: int, keyframe: dict[str, Any]) -> Moment:
    """The "time" or the "frame" of a keyframe; it has one of the two. Raises UsageError, naming the keyframe."""
    if ("time" in keyframe) == ("frame" in keyframe):
        raise UsageError(f'Keyframe {index + 1} is to have either "time" or "frame".')
    unit = "seconds" if "time" in keyframe else "frames"
    value = keyframe["time" if unit == "seconds" else "frame"]
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UsageError(f"Keyframe {index + 1}: {escape_name(value, 60)} is not a time.")
    return read_numbered_moment(index, value if isinstance(value, str) else repr(value), unit)


def from_csv(text: str) -> ParsedKeyframes:
    """A header, time or frame and then members' names, and one row a keyframe; an empty cell is a share left out.

    Raises UsageError.
    """
    first = text.split("\n", 1)[0]
    delimiter = next((sign for sign in (",", ";", "\t") if sign in first), ",")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(rows, [])]
        unit = {"time": "seconds", "seconds": "seconds", "frame": "frames"}.get(header[0].lower() if header else "")
        if unit is None or len(header) < 2:
            raise UsageError('its first line is not a header such as "time,psnr,gan" or "frame,psnr,gan".')
        names = header[1:]
        if len(set(names)) != len(names):
            raise UsageError("its header names one member twice.")
        written = ParsedKeyframes()
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            index = len(written.moments)
            if len(row) != len(header):
                raise UsageError(f"Keyframe {index + 1} (line {rows.line_num}) has {len(row)} cells, the header {len(header)}.")
            shares: dict[str, Any] = {name: cell for name, cell in zip(names, row[1:], strict=True) if cell.strip()}
            written.add(read_numbered_moment(index, row[0], unit), shares)
    except csv.Error as error:
        raise UsageError(f"line {rows.line_num} is not CSV ({escape_name(error)}).") from None
    return written

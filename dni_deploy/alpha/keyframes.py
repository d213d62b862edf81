"""Keyframes as people write them, in a text, a JSON file or a CSV file; not yet checked against a family."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dni_deploy.errors import LimitError, UsageError, escape_name
from dni_deploy.utils.moment import Moment, read_moment, validate_moment
from dni_deploy.utils.text_file import MAX_TEXT_FILE_BYTES

ALPHA_FILE_SCHEMA_VERSION = 1

MAX_KEYFRAMES = 1_000_000
"""Nine hours of video with an alpha for each frame."""

INTERPOLATIONS = ("linear", "hold", "smooth")


def convert_to_common_unit(moments: Sequence[Moment], fps: float | None, noun: str) -> tuple[str, list[float]]:
    """Converts moments to seconds where some of them are in frames.

    Args:
        moments: One or more moments.
        fps: The frame rate, if it is known.
        noun: What has the moments, for the message: "timeline".

    Returns:
        The unit, "seconds" or "frames", and the number of each moment in it.

    Raises:
        UsageError: The units differ and the frame rate is not known.
    """
    if len({moment.unit for moment in moments}) == 1:
        return moments[0].unit, [moment.value for moment in moments]
    if fps is None or not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"The {noun} mixes seconds and frames, and the frame rate is not known; use one of the two.")
    return "seconds", [moment.value / fps if moment.unit == "frames" else moment.value for moment in moments]


def check_schema(fields: dict[str, Any]) -> None:
    """Raises UsageError where a JSON file about alpha states another schema version."""
    if fields.get("schema", ALPHA_FILE_SCHEMA_VERSION) != ALPHA_FILE_SCHEMA_VERSION:
        raise UsageError(f"its schema is {escape_name(fields['schema'], 40)}; this version reads {ALPHA_FILE_SCHEMA_VERSION}.")


@dataclass
class ParsedKeyframes:
    """Keyframes as written, and what the file says besides; None where it says nothing.

    Attributes:
        noun: What the keyframes belong to, for messages.
        moments: When each keyframe is.
        values: What it holds: an alpha, or a point of a plane.
        members: The members for which the alphas are written.
        interpolation: One of INTERPOLATIONS, not yet checked.
        loop: Whether the first keyframe follows the last one.
        has_times: False for one alpha without a time.
    """

    noun: str = "timeline"
    moments: list[Moment] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    members: tuple[str, ...] | None = None
    interpolation: str | None = None
    loop: bool | None = None
    has_times: bool = True

    def add(self, moment: Moment, value: Any) -> None:
        """Appends a keyframe.

        Raises:
            LimitError: There are MAX_KEYFRAMES already.
        """
        if len(self.moments) >= MAX_KEYFRAMES:
            raise LimitError(f"A {self.noun} has at most {MAX_KEYFRAMES:,} keyframes; this one has more.")
        self.moments.append(moment)
        self.values.append(value)


def from_pairs(
    pairs: Iterable[tuple[float | str, Any]], interpolation: str, loop: bool, noun: str = "timeline"
) -> ParsedKeyframes:
    """Collects pairs of a time (seconds, or a text as `read_moment` reads it) and a value.

    Raises:
        UsageError: A time is none; the message names the keyframe.
        LimitError: There are more than MAX_KEYFRAMES.
    """
    keyframes = ParsedKeyframes(noun, interpolation=interpolation, loop=loop)
    for index, (time, value) in enumerate(pairs):
        if isinstance(time, str):
            moment = _read_numbered_moment(index, time)
        else:
            try:
                moment = validate_moment(Moment(float(time), "seconds"))
            except (TypeError, ValueError, OverflowError) as error:
                reason = error if isinstance(error, UsageError) else f"{escape_name(repr(time), 60)} is not a time."
                raise UsageError(f"Keyframe {index + 1}: {reason}") from None
        keyframes.add(moment, value)
    return keyframes


def from_text(text: str) -> ParsedKeyframes:
    """Reads "0:gan=0, 2.5s:gan=1, 4s:gan=0.3; smooth; loop": a time before the last colon begins a keyframe.

    Raises:
        UsageError: The text is no timeline.
        LimitError: It is longer than MAX_TEXT_FILE_BYTES or has more than MAX_KEYFRAMES.
    """
    if len(text) > MAX_TEXT_FILE_BYTES:
        raise LimitError(f"The timeline has {len(text):,} characters; the limit is {MAX_TEXT_FILE_BYTES:,}.")
    body, *options = text.split(";")
    keyframes = ParsedKeyframes()
    for option in (option.strip().lower() for option in options):
        if option == "loop":
            keyframes.loop = True
        elif option in INTERPOLATIONS:
            keyframes.interpolation = option
        elif option:
            raise UsageError(f"A timeline may end with {', '.join(INTERPOLATIONS)} or loop; got {escape_name(option, 60)!r}.")
    if not body.strip():
        raise UsageError('The timeline is empty; write for example "0:gan=0, 2.5s:gan=1".')
    if ":" not in body:
        keyframes.has_times = False
        keyframes.add(Moment(0.0, "seconds"), body)
        return keyframes
    for piece in body.split(","):
        time, colon, alpha = piece.rpartition(":")
        if colon:
            keyframes.add(_read_numbered_moment(len(keyframes.moments), time), [alpha])
        elif keyframes.moments:
            keyframes.values[-1].append(piece)
        else:
            raise UsageError(
                f"The timeline begins with {escape_name(piece.strip(), 60)!r}, which has no time; write 0:... first."
            )
    keyframes.values = [",".join(pieces) for pieces in keyframes.values]
    return keyframes


def from_json(fields: object) -> ParsedKeyframes:
    """Reads {"schema": 1, "members": [...], "interpolation": ..., "loop": ..., "keyframes": [{"time": 0.0, "alpha": ...}]}.

    Raises:
        UsageError: A field is unknown or of another form.
        LimitError: There are more than MAX_KEYFRAMES.
    """
    if not isinstance(fields, dict) or not isinstance(fields.get("keyframes"), list):
        raise UsageError('a timeline is an object with a list "keyframes".')
    unknown = set(fields) - {"schema", "members", "interpolation", "loop", "keyframes"}
    if unknown:
        raise UsageError(f"a timeline has no {escape_name(min(unknown))!r}.")
    check_schema(fields)
    members = fields.get("members")
    if members is not None and not (isinstance(members, list) and all(isinstance(name, str) for name in members)):
        raise UsageError('"members" is a list of names.')
    return read_json_keyframes(fields, ParsedKeyframes(members=None if members is None else tuple(members)), "alpha")


def read_json_keyframes(fields: dict[str, Any], keyframes: ParsedKeyframes, key: str) -> ParsedKeyframes:
    """Adds the list "keyframes" of a JSON file, its "interpolation" and its "loop".

    A keyframe has either "time" (seconds, or a text such as "1:02.5") or "frame".

    Args:
        fields: The file's object.
        keyframes: What to add to.
        key: The key of a keyframe's value.

    Returns:
        `keyframes` itself.

    Raises:
        UsageError: A field is of another form; the message names the keyframe.
        LimitError: There are more than MAX_KEYFRAMES.
    """
    keyframes.interpolation, keyframes.loop = fields.get("interpolation"), fields.get("loop")
    if keyframes.loop is not None and not isinstance(keyframes.loop, bool):
        raise UsageError('"loop" is true or false.')
    for index, keyframe in enumerate(fields["keyframes"]):
        if not isinstance(keyframe, dict) or key not in keyframe:
            raise UsageError(f'Keyframe {index + 1} is not an object with "{key}" and either "time" or "frame".')
        if ("time" in keyframe) == ("frame" in keyframe):
            raise UsageError(f'Keyframe {index + 1} is to have either "time" or "frame".')
        unit = "seconds" if "time" in keyframe else "frames"
        time = keyframe["time" if unit == "seconds" else "frame"]
        if isinstance(time, bool) or not isinstance(time, (int, float, str)):
            raise UsageError(f"Keyframe {index + 1}: {escape_name(time, 60)} is not a time.")
        keyframes.add(_read_numbered_moment(index, time if isinstance(time, str) else repr(time), unit), keyframe[key])
    return keyframes


def from_csv(text: str) -> ParsedKeyframes:
    """Reads a header, time or frame and then members' names, and one row per keyframe; an empty cell is a share left out.

    Raises:
        UsageError: The text is no such table.
        LimitError: There are more than MAX_KEYFRAMES.
    """
    first_line = text.split("\n", 1)[0]
    delimiter = next((sign for sign in (",", ";", "\t") if sign in first_line), ",")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(rows, [])]
        unit = {"time": "seconds", "seconds": "seconds", "frame": "frames"}.get(header[0].lower() if header else "")
        if unit is None or len(header) < 2:
            raise UsageError('its first line is not a header such as "time,psnr,gan" or "frame,psnr,gan".')
        names = header[1:]
        if len(set(names)) != len(names):
            raise UsageError("its header names one member twice.")
        keyframes = ParsedKeyframes()
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            index = len(keyframes.moments)
            if len(row) != len(header):
                raise UsageError(f"Keyframe {index + 1} (line {rows.line_num}) has {len(row)} cells, the header {len(header)}.")
            alpha = {name: cell for name, cell in zip(names, row[1:], strict=True) if cell.strip()}
            keyframes.add(_read_numbered_moment(index, row[0], unit), alpha)
    except csv.Error as error:
        raise UsageError(f"line {rows.line_num} is not CSV ({escape_name(error)}).") from None
    return keyframes


def _read_numbered_moment(index: int, text: str, unit: str = "seconds") -> Moment:
    """As read_moment, with the keyframe's number in the message; a bare number is in `unit`."""
    try:
        moment = read_moment(text)
        if unit == "frames" and text.strip()[-1:] not in ("s", "S") and ":" not in text:
            moment = validate_moment(Moment(moment.value, "frames"))
        return moment
    except UsageError as error:
        raise UsageError(f"Keyframe {index + 1}: {error}") from None

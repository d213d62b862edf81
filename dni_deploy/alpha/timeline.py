"""Alpha over time, from keyframes.

timeline = AlphaTimeline.parse("0:gan=0, 2.5s:gan=1, 4s:gan=0.3", ("psnr", "gan"))
timeline.at(1.25, 30)  # psnr=0.5, gan=0.5
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.alpha.keyframes import (
    ALPHA_FILE_SCHEMA_VERSION,
    INTERPOLATIONS,
    ParsedKeyframes,
    convert_to_common_unit,
    from_csv,
    from_json,
    from_pairs,
    from_text,
)
from dni_deploy.alpha.member_names import find_member
from dni_deploy.alpha.member_path import PATH_KEY, follow_path, read_path_position
from dni_deploy.alpha.simplex import interpolate_values
from dni_deploy.errors import CoefficientsError, UsageError, escape_name
from dni_deploy.utils.text_file import load_json, name_file_in_errors, read_text


class AlphaSource(Protocol):
    """Alpha over time: what a frame loop asks once for each frame.

    A source that is the same in every run also has `to_json()`, which returns all that it depends on, and `kind`, a fixed
    string that stays when the class is renamed. Both are in the identity of a stopped video job; without `kind` the class name
    is used.
    """

    def at(self, seconds: float, frame: int) -> Coefficients:
        """Computes the coefficients of one frame.

        Args:
            seconds: Time of the frame in seconds from the start.
            frame: Number of the frame, from 0.
        """
        ...


class KeyframeTrack:
    """Base of what moves from keyframe to keyframe.

    Attributes:
        unit: What `times` counts, "seconds" or "frames"; a track in frames needs no frame rate.
        times: float64 (K,), K >= 1, rising, from 0 on; read-only.
        interpolation: "linear"; "smooth", which rests at each keyframe (smoothstep); "hold", which keeps the value until the
            next one.
        loop: Whether the first keyframe follows at once after the last one; else the last value holds. Before the first one,
            its value holds.
    """

    unit: str
    times: NDArray[np.float64]
    interpolation: str
    loop: bool

    def find_interval(self, seconds: float, frame: int) -> tuple[int, int, float]:
        """Finds the keyframes around a frame.

        Args:
            seconds: Time of the frame in seconds from the start.
            frame: Number of the frame, from 0.

        Returns:
            The index of the keyframe before, that of the one after (the same one where a value holds), and the fraction of the
            line from one to the other, 0 to 1.

        Raises:
            UsageError: The time is not a finite number.
        """
        position = float(frame) if self.unit == "frames" else float(seconds)
        if not math.isfinite(position):
            raise UsageError(f"The time of frame {frame} is {position}; it must be a finite number.")
        first, last = float(self.times[0]), float(self.times[-1])
        if self.loop and position >= last:
            position = first + math.fmod(position - first, last - first)
        after = int(np.searchsorted(self.times, position, "right"))
        before = max(after - 1, 0)
        if after in (0, len(self.times)) or self.interpolation == "hold":
            return before, before, 0.0
        left, right = float(self.times[before]), float(self.times[after])
        fraction = (position - left) / (right - left)
        if self.interpolation == "smooth":
            fraction = fraction * fraction * (3.0 - 2.0 * fraction)
        return before, after, fraction


@dataclass(frozen=True, eq=False)
class AlphaTimeline(KeyframeTrack):
    """Keyframes of coefficients, and the straight lines between them; between two positions on the path, the path.

    Attributes:
        members: Names of the members, in family order.
        coefficients: float64 (K, N), a row for each of the times; read-only.
        positions: float64 (K,), the position on the path of each keyframe, NaN where it has none; None where none has.
    """

    kind: ClassVar[str] = "AlphaTimeline"

    members: tuple[str, ...]
    unit: str
    times: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    interpolation: str = "linear"
    loop: bool = False
    positions: NDArray[np.float64] | None = None

    @classmethod
    def from_keyframes(
        cls,
        keyframes: Iterable[tuple[float | str, Alpha]],
        members: Sequence[str],
        interpolation: str = "linear",
        loop: bool = False,
        *,
        fps: float | None = None,
        extrapolate: bool = False,
    ) -> AlphaTimeline:
        """Makes a timeline from pairs of a time and an alpha.

        Args:
            keyframes: Times in seconds, or as a text such as "75f" or "1:02.5", and alphas as in Coefficients.parse; the one
                member that is left out takes the rest.
            members: Names of the family's members.
            interpolation: As in KeyframeTrack.
            loop: As in KeyframeTrack.
            fps: Frame rate; needed only where seconds and frames are mixed.
            extrapolate: Whether coefficients outside 0 to 1 are allowed.

        Returns:
            The timeline.

        Raises:
            UsageError: There is no keyframe, or the times do not rise.
            CoefficientsError: An alpha does not fit; the message names the keyframe.
            LimitError: There are too many keyframes.
        """
        return cls._build(from_pairs(keyframes, interpolation, loop), members, None, None, fps, extrapolate)

    @classmethod
    def parse(
        cls,
        text: str,
        members: Sequence[str],
        *,
        fps: float | None = None,
        interpolation: str | None = None,
        loop: bool | None = None,
        extrapolate: bool = False,
    ) -> AlphaTimeline:
        """Reads "0:gan=0, 2.5s:gan=1, 4s:gan=0.3"; a text without times is a constant alpha.

        Times are written 2.5 or 2.5s, 1:02.5, 75f. "; smooth", "; hold" and "; loop" may follow; the arguments `interpolation`
        and `loop` override them. The other arguments and the errors are those of `from_keyframes`.
        """
        return cls._build(from_text(text), members, interpolation, loop, fps, extrapolate)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        members: Sequence[str],
        *,
        fps: float | None = None,
        interpolation: str | None = None,
        loop: bool | None = None,
        extrapolate: bool = False,
    ) -> AlphaTimeline:
        """Reads a JSON or CSV file of keyframes, recognized by its content; docs/alpha.md has the formats.

        The arguments are those of `parse`.

        Raises:
            InputError: The file is missing, damaged, unsorted or does not fit the family; the message names file and keyframe.
            LimitError: It is too large.
        """
        text = read_text(path, "timeline")
        with name_file_in_errors(path):
            keyframes = from_json(load_json(text)) if text.lstrip()[:1] in ("{", "[") else from_csv(text)
            return cls._build(keyframes, members, interpolation, loop, fps, extrapolate)

    @classmethod
    def from_coefficients(cls, coefficients: Coefficients) -> AlphaTimeline:
        """Makes a timeline that has the same coefficients at all times."""
        return cls(coefficients.members, "seconds", make_read_only_array([0.0]), make_read_only_array([coefficients.values]))

    @classmethod
    def _build(
        cls,
        keyframes: ParsedKeyframes,
        members: Sequence[str],
        interpolation: str | None,
        loop: bool | None,
        fps: float | None,
        extrapolate: bool,
    ) -> AlphaTimeline:
        keyframes.interpolation = interpolation or keyframes.interpolation
        keyframes.loop = keyframes.loop if loop is None else loop
        names = tuple(members)
        unit, times, interpolation, loop = validate_track(keyframes, fps)
        values = make_read_only_array(_parse_coefficients(keyframes, names, extrapolate))
        return cls(names, unit, times, values, interpolation, loop, _read_positions(keyframes, names))

    def at(self, seconds: float, frame: int) -> Coefficients:
        """Computes the coefficients of a frame, as in AlphaSource; they sum to 1 as the keyframes do.

        Raises:
            UsageError: The time is not a finite number.
        """
        before, after, fraction = self.find_interval(seconds, frame)
        if self.positions is not None and before != after:
            here, there = self.positions[[before, after]].tolist()
            if not math.isnan(here + there):
                position = min(max(here + fraction * (there - here), 0.0), 1.0)
                return Coefficients(self.members, follow_path(position, len(self.members)))
        start, end = self.coefficients[before].tolist(), self.coefficients[after].tolist()
        return Coefficients(self.members, tuple(start) if before == after else interpolate_values(start, end, fraction))

    def to_json(self) -> dict[str, Any]:
        """Returns the timeline as `read` reads it; numbers come back bit for bit."""
        alphas: list[dict[str, float]] = [dict(zip(self.members, values, strict=True)) for values in self.coefficients.tolist()]
        for index, position in enumerate([] if self.positions is None else self.positions.tolist()):
            if not math.isnan(position):
                alphas[index] = {PATH_KEY: position}
        return {"schema": ALPHA_FILE_SCHEMA_VERSION, "members": list(self.members), **track_to_json(self, "alpha", alphas)}


def validate_track(keyframes: ParsedKeyframes, fps: float | None) -> tuple[str, NDArray[np.float64], str, bool]:
    """Checks everything of parsed keyframes but their values.

    Returns:
        The fields of KeyframeTrack: unit, times, interpolation, loop.

    Raises:
        UsageError: There are too few keyframes, the times do not rise, units are mixed and `fps` is not known, or there is no
            such interpolation.
    """
    noun, moments, loop = keyframes.noun, keyframes.moments, bool(keyframes.loop)
    if not moments:
        raise UsageError(f"The {noun} is empty: it has 0 keyframes and needs at least one.")
    interpolation = keyframes.interpolation or "linear"
    if interpolation not in INTERPOLATIONS:
        raise UsageError(
            f"There is no interpolation {escape_name(interpolation, 60)!r}; there are {', '.join(INTERPOLATIONS)}."
        )
    if loop and len(moments) < 2:
        raise UsageError(f"A {noun} that loops needs at least 2 keyframes; this one has 1.")
    unit, times = convert_to_common_unit(moments, fps, noun)
    for index in range(1, len(times)):
        if times[index] <= times[index - 1]:
            this, before = moments[index], moments[index - 1]
            raise UsageError(
                f"Keyframe {index + 1} is at {this}, as keyframe {index} is; one time has one alpha."
                if times[index] == times[index - 1]
                else f"Keyframe {index + 1} is at {this}, before keyframe {index} at {before}; keyframes go forward in time."
            )
    return unit, make_read_only_array(times), interpolation, loop


def track_to_json(track: KeyframeTrack, key: str, values: Sequence[Any]) -> dict[str, Any]:
    """Returns the fields of a track, with one value per keyframe under `key`."""
    time_key, number = ("frame", int) if track.unit == "frames" else ("time", float)
    keyframes = [{time_key: number(time), key: value} for time, value in zip(track.times, values, strict=True)]
    return {"interpolation": track.interpolation, "loop": track.loop, "keyframes": keyframes}


def _parse_coefficients(keyframes: ParsedKeyframes, members: tuple[str, ...], extrapolate: bool) -> list[tuple[float, ...]]:
    """In family order; a file that lists its members may list them in another order."""
    names = members if keyframes.members is None else tuple(find_member(name, members) or name for name in keyframes.members)
    if sorted(names) != sorted(members):
        raise CoefficientsError(
            f"The timeline is for the members {', '.join(map(repr, map(escape_name, names))) or 'none'}; "
            f"this family has {', '.join(map(repr, map(escape_name, members)))}."
        )
    order = [names.index(name) for name in members]
    rows = []
    for index, (moment, alpha) in enumerate(zip(keyframes.moments, keyframes.values, strict=True)):
        try:
            values = Coefficients.parse(alpha, names, extrapolate=extrapolate).values
        except CoefficientsError as error:
            raise CoefficientsError(
                f"Keyframe {index + 1} at {moment}: {error}" if keyframes.has_times else str(error)
            ) from None
        rows.append(tuple(values[column] for column in order))
    return rows


def _read_positions(keyframes: ParsedKeyframes, members: tuple[str, ...]) -> NDArray[np.float64] | None:
    positions = [read_path_position(alpha, members) for alpha in keyframes.values]
    if all(position is None for position in positions):
        return None
    if keyframes.members not in (None, members):
        raise CoefficientsError(
            "A path goes through the members in the family's order; the timeline lists them in another one."
        )
    return make_read_only_array([math.nan if position is None else position for position in positions])


def make_read_only_array(values: Sequence[Any]) -> NDArray[np.float64]:
    """Makes a float64 array that nobody can write to."""
    array = np.array(values, np.float64)
    array.setflags(write=False)
    return array

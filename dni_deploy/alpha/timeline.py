"""AlphaTimeline: alpha over time, from keyframes.

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
    Moment,
    ParsedKeyframes,
    from_csv,
    from_json,
    from_text,
    read_numbered_moment,
    validate_moment,
)
from dni_deploy.alpha.simplex import fill_missing_member, interpolate_values
from dni_deploy.errors import CoefficientsError, InputError, LimitError, UsageError, escape_name
from dni_deploy.utils.text_file import as_text, load_json, read_bytes


class AlphaSource(Protocol):
    """Alpha over time: what a frame loop asks once for each frame.

    A source that is the same in every run also has `to_json()`, which gives all that it depends on, and `kind`, a fixed string that
    stays when the class is renamed. Both are in the identity of a stopped video job; without `kind` the class name stands there.
    """

    def at(self, seconds: float, frame: int) -> Coefficients:
        """The coefficients of one frame: its time in seconds from the start, and its number from 0."""
        ...


@dataclass(frozen=True, eq=False)
class AlphaTimeline:
    """Keyframes on the simplex, and the ways between them.

    unit           "seconds" or "frames": what `times` counts; a timeline in frames asks for no frame rate.
    times          float64 (K,), K >= 1, rising, from 0 on.
    shares         float64 (K, N), in family order; both are the timeline's own and read-only.
    interpolation  "linear"; "smooth", which rests at each keyframe (smoothstep); "hold", which keeps the value until the next one.
    loop           after the last keyframe the first one follows at once; else the last value holds. Before the first, its value.
    """

    kind: ClassVar[str] = "AlphaTimeline"

    members: tuple[str, ...]
    unit: str
    times: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    interpolation: str = "linear"
    loop: bool = False

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
        """Keyframes as pairs of a time (seconds, or a text such as "75f" or "1:02.5") and an alpha.

        Raises UsageError (none, unsorted, twice the same time), CoefficientsError (an alpha that does not fit; the sentence
        names the keyframe), LimitError.
        """
        written = ParsedKeyframes(interpolation=interpolation, loop=loop)
        for index, (time, alpha) in enumerate(keyframes):
            written.add(parse_keyframe_time(index, time), alpha)
        return cls._build(written, members, None, None, fps, extrapolate)

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
        """Read "0:gan=0, 2.5s:gan=1, 4s:gan=0.3"; a text without times is a constant alpha.

        Times: 2.5 or 2.5s, 1:02.5, 75f; shares as in Coefficients.parse, and the one member that is left out takes the rest.
        "; smooth", "; hold" and "; loop" may follow; `interpolation` and `loop` go before them. fps is needed only where
        seconds and frames are mixed. Raises as `from_keyframes` does.
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
        """A JSON or CSV file of keyframes, told apart by what is in it; formats in docs/alpha.md.

        Raises InputError (missing, damaged, unsorted, ...; names file and keyframe), LimitError (too large).
        """
        data = read_bytes(path)
        try:
            text = as_text(data)
            written = from_json(load_json(text)) if text.lstrip()[:1] in ("{", "[") else from_csv(text)
            return cls._build(written, members, interpolation, loop, fps, extrapolate)
        except LimitError as error:
            raise LimitError(f"{escape_name(path)}: {error}") from None
        except UsageError as error:
            raise InputError(f"{escape_name(path)}: {error}") from None

    @classmethod
    def from_coefficients(cls, coefficients: Coefficients) -> AlphaTimeline:
        """The same coefficients at all times."""
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
        names = tuple(members)
        if not keyframes.moments:
            raise UsageError("The timeline is empty; it needs at least one keyframe.")
        kind = interpolation or keyframes.interpolation or "linear"
        if kind not in INTERPOLATIONS:
            raise UsageError(f"There is no interpolation {escape_name(kind, 60)!r}; there are {', '.join(INTERPOLATIONS)}.")
        again = bool(keyframes.loop if loop is None else loop)
        if again and len(keyframes.moments) < 2:
            raise UsageError("A timeline that loops needs at least 2 keyframes; this one has 1.")
        unit, times = convert_to_common_unit(keyframes.moments, fps)
        return cls(
            names,
            unit,
            make_read_only_array(times),
            make_read_only_array(_parse_coefficients(keyframes, names, extrapolate)),
            kind,
            again,
        )

    def at(self, seconds: float, frame: int) -> Coefficients:
        """The coefficients of a frame; they sum to 1 as the keyframes do. Raises UsageError where the time is not a number."""
        left, right, way = find_interval(self, seconds, frame)
        start = self.coefficients[left].tolist()
        shares = tuple(start) if left == right else interpolate_values(start, self.coefficients[right].tolist(), way)
        return Coefficients(self.members, shares)

    def to_json(self) -> dict[str, Any]:
        """As `read` takes it; numbers come back bit for bit."""
        frames = self.unit == "frames"
        keyframes = [
            {"frame": int(time), "alpha": alpha} if frames else {"time": time, "alpha": alpha}
            for time, alpha in (
                (time, dict(zip(self.members, shares, strict=True)))
                for time, shares in zip(self.times.tolist(), self.coefficients.tolist(), strict=True)
            )
        ]
        return {
            "schema": ALPHA_FILE_SCHEMA_VERSION,
            "members": list(self.members),
            "interpolation": self.interpolation,
            "loop": self.loop,
            "keyframes": keyframes,
        }


class KeyframeTrack(Protocol):
    """What has keyframes: the fields of AlphaTimeline of the same names."""

    @property
    def unit(self) -> str: ...
    @property
    def times(self) -> NDArray[np.float64]: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def loop(self) -> bool: ...


def find_interval(track: KeyframeTrack, seconds: float, frame: int) -> tuple[int, int, float]:
    """The keyframe before, the one after (the same one where a value holds), and the part of the way between them, 0 to 1."""
    position = float(frame) if track.unit == "frames" else float(seconds)
    if not math.isfinite(position):
        raise UsageError(f"The time of frame {frame} is {position}; it must be a finite number.")
    times = track.times
    first, last = float(times[0]), float(times[-1])
    if track.loop and position >= last:
        position = first + math.fmod(position - first, last - first)
    after = int(np.searchsorted(times, position, "right"))
    before = max(after - 1, 0)
    if after in (0, len(times)) or track.interpolation == "hold":
        return before, before, 0.0
    left, right = float(times[before]), float(times[after])
    way = (position - left) / (right - left)
    return before, after, way * way * (3.0 - 2.0 * way) if track.interpolation == "smooth" else way


def parse_keyframe_time(index: int, time: float | str) -> Moment:
    """Seconds, or a text as read_moment takes it. Raises UsageError, naming the keyframe."""
    if isinstance(time, str):
        return read_numbered_moment(index, time)
    try:
        return validate_moment(Moment(float(time), "seconds"))
    except (TypeError, ValueError, OverflowError) as error:
        reason = error if isinstance(error, UsageError) else f"{escape_name(repr(time), 60)} is not a time."
        raise UsageError(f"Keyframe {index + 1}: {reason}") from None


def convert_to_common_unit(moments: Sequence[Moment], fps: float | None) -> tuple[str, list[float]]:
    """The moments in one unit, and which. Raises UsageError: they do not rise, or are mixed and fps is not known."""
    units = {moment.unit for moment in moments}
    unit, times = moments[0].unit, [moment.value for moment in moments]
    if len(units) > 1:
        if fps is None or not (math.isfinite(fps) and fps > 0):
            raise UsageError("The timeline mixes seconds and frames, and the frame rate is not known; use one of the two.")
        unit = "seconds"
        times = [moment.value / fps if moment.unit == "frames" else moment.value for moment in moments]
    for index in range(1, len(times)):
        if times[index] <= times[index - 1]:
            here, before = moments[index], moments[index - 1]
            raise UsageError(
                f"Keyframe {index + 1} is at {here}, as keyframe {index} is; one time has one alpha."
                if times[index] == times[index - 1]
                else f"Keyframe {index + 1} is at {here}, before keyframe {index} at {before}; keyframes go forward in time."
            )
    return unit, times


def _parse_coefficients(keyframes: ParsedKeyframes, members: tuple[str, ...], extrapolate: bool) -> list[tuple[float, ...]]:
    """In family order; a file that lists its members may list them in another order."""
    own = members if keyframes.members is None else keyframes.members
    if sorted(own) != sorted(members):
        raise CoefficientsError(
            f"The timeline is for the members {', '.join(map(repr, map(escape_name, own))) or 'none'}; "
            f"this family has {', '.join(map(repr, map(escape_name, members)))}."
        )
    order = [own.index(name) for name in members]
    found = []
    for index, (moment, alpha) in enumerate(zip(keyframes.moments, keyframes.alphas, strict=True)):
        try:
            shares = fill_missing_member(alpha, own, extrapolate=extrapolate).values
        except CoefficientsError as error:
            raise CoefficientsError(
                f"Keyframe {index + 1} at {moment}: {error}" if keyframes.has_times else str(error)
            ) from None
        found.append(tuple(shares[place] for place in order))
    return found


def make_read_only_array(values: Sequence[Any]) -> NDArray[np.float64]:
    """A float64 array that nobody can write to."""
    array = np.array(values, np.float64)
    array.setflags(write=False)
    return array

"""PlanePath: a way through a control plane over time, as an AlphaSource.

A file has the plane and, beside it, "keyframes" with "at": {"plane": {...}, "keyframes": [{"time": 0, "at": [0, 0.5]}, ...]}.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.keyframes import ALPHA_FILE_SCHEMA_VERSION, INTERPOLATIONS, MAX_KEYFRAMES, Moment, read_json_moment
from dni_deploy.alpha.plane import ControlPlane, parse_point
from dni_deploy.alpha.timeline import convert_to_common_unit, find_interval, make_read_only_array, parse_keyframe_time
from dni_deploy.errors import InputError, LimitError, UsageError, escape_name
from dni_deploy.utils.text_file import as_text, load_json, read_bytes


@dataclass(frozen=True, eq=False)
class PlanePath:
    """points: float64 (K, 2), x and y at each of the times; unit, times, interpolation, loop as in AlphaTimeline.

    The point moves on straight lines of the plane, and each frame has the coefficients of its point.
    """

    kind: ClassVar[str] = "PlanePath"

    plane: ControlPlane
    unit: str
    times: NDArray[np.float64]
    points: NDArray[np.float64]
    interpolation: str = "linear"
    loop: bool = False

    @classmethod
    def from_keyframes(
        cls,
        plane: ControlPlane,
        keyframes: Iterable[tuple[float | str, Sequence[float]]],
        interpolation: str = "linear",
        loop: bool = False,
        *,
        fps: float | None = None,
    ) -> PlanePath:
        """Keyframes as pairs of a time, as in AlphaTimeline.from_keyframes, and a point. Raises UsageError, LimitError."""
        timed = ((parse_keyframe_time(index, time), point) for index, (time, point) in enumerate(keyframes))
        return cls._build(plane, timed, interpolation, loop, fps)

    @classmethod
    def from_json(cls, fields: object, members: Sequence[str], *, fps: float | None = None) -> PlanePath:
        """Raises UsageError."""
        plane = ControlPlane.from_json(fields, members)
        assert isinstance(fields, dict)
        keyframes, loop = fields.get("keyframes"), fields.get("loop", False)
        if not isinstance(keyframes, list):
            raise UsageError('a way through a plane has a list "keyframes".')
        if not isinstance(loop, bool):
            raise UsageError('"loop" is true or false.')
        timed = []
        for index, keyframe in enumerate(keyframes):
            if not isinstance(keyframe, dict) or "at" not in keyframe:
                raise UsageError(f'Keyframe {index + 1} is not an object with "at" and either "time" or "frame".')
            timed.append((read_json_moment(index, keyframe), keyframe["at"]))
        return cls._build(plane, timed, fields.get("interpolation", "linear"), loop, fps)

    @classmethod
    def read(cls, path: str | os.PathLike[str], members: Sequence[str], *, fps: float | None = None) -> PlanePath:
        """A JSON file. Raises InputError, LimitError."""
        data = read_bytes(path)
        try:
            return cls.from_json(load_json(as_text(data)), members, fps=fps)
        except UsageError as error:
            raise InputError(f"{escape_name(path)}: {error}") from None

    @classmethod
    def _build(
        cls, plane: ControlPlane, keyframes: Iterable[tuple[Moment, Any]], interpolation: str, loop: bool, fps: float | None
    ) -> PlanePath:
        moments, points = [], []
        for index, (moment, point) in enumerate(keyframes):
            if index >= MAX_KEYFRAMES:
                raise LimitError(f"A path has at most {MAX_KEYFRAMES:,} keyframes; this one has more.")
            moments.append(moment)
            points.append(parse_point(point, f"Keyframe {index + 1} at {moment}: the point"))
        if len(moments) < 1 + loop:
            raise UsageError(f"The path has {len(moments)} keyframes; it needs at least {1 + loop}.")
        if interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"There is no interpolation {escape_name(interpolation, 60)!r}; there are {', '.join(INTERPOLATIONS)}."
            )
        unit, times = convert_to_common_unit(moments, fps)
        return cls(plane, unit, make_read_only_array(times), make_read_only_array(points), interpolation, loop)

    @property
    def members(self) -> tuple[str, ...]:
        return self.plane.members

    def at(self, seconds: float, frame: int) -> Coefficients:
        """The coefficients of a frame's point. Raises UsageError for a time that is no number."""
        left, right, way = find_interval(self, seconds, frame)
        start, end = self.points[left], self.points[right]
        x, y = (start if way == 0.0 else (1.0 - way) * start + way * end).tolist()
        return self.plane.at(x, y)

    def to_json(self) -> dict[str, Any]:
        """As `read` takes it."""
        key, kind = ("frame", int) if self.unit == "frames" else ("time", float)
        keyframes = [{key: kind(time), "at": point} for time, point in zip(self.times, self.points.tolist(), strict=True)]
        more = {"interpolation": self.interpolation, "loop": self.loop, "keyframes": keyframes}
        return {**self.plane.to_json(), "schema": ALPHA_FILE_SCHEMA_VERSION, **more}

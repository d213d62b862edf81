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
from dni_deploy.alpha.keyframes import (
    INTERPOLATIONS,
    KEYFRAME_LIMIT,
    SCHEMA,
    Moment,
    as_text,
    json_moment,
    load_json,
    read_bytes,
)
from dni_deploy.alpha.plane import ControlPlane, point_of
from dni_deploy.alpha.timeline import frozen, located, moment_of, rising
from dni_deploy.errors import InputError, LimitError, UsageError, shown


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
    def of(
        cls,
        plane: ControlPlane,
        keyframes: Iterable[tuple[float | str, Sequence[float]]],
        interpolation: str = "linear",
        loop: bool = False,
        *,
        fps: float | None = None,
    ) -> PlanePath:
        """Keyframes as pairs of a time, as in AlphaTimeline.of, and a point. Raises UsageError, LimitError."""
        timed = ((moment_of(index, time), point) for index, (time, point) in enumerate(keyframes))
        return cls._built(plane, timed, interpolation, loop, fps)

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
            timed.append((json_moment(index, keyframe), keyframe["at"]))
        return cls._built(plane, timed, fields.get("interpolation", "linear"), loop, fps)

    @classmethod
    def read(cls, path: str | os.PathLike[str], members: Sequence[str], *, fps: float | None = None) -> PlanePath:
        """A JSON file. Raises InputError, LimitError."""
        data = read_bytes(path)
        try:
            return cls.from_json(load_json(as_text(data)), members, fps=fps)
        except UsageError as error:
            raise InputError(f"{shown(path)}: {error}") from None

    @classmethod
    def _built(
        cls, plane: ControlPlane, timed: Iterable[tuple[Moment, Any]], interpolation: str, loop: bool, fps: float | None
    ) -> PlanePath:
        moments, points = [], []
        for index, (moment, point) in enumerate(timed):
            if index >= KEYFRAME_LIMIT:
                raise LimitError(f"A path has at most {KEYFRAME_LIMIT:,} keyframes; this one has more.")
            moments.append(moment)
            points.append(point_of(point, f"Keyframe {index + 1} at {moment}: the point"))
        if len(moments) < 1 + loop:
            raise UsageError(f"The path has {len(moments)} keyframes; it needs at least {1 + loop}.")
        if interpolation not in INTERPOLATIONS:
            raise UsageError(f"There is no interpolation {shown(interpolation, 60)!r}; there are {', '.join(INTERPOLATIONS)}.")
        unit, times = rising(moments, fps)
        return cls(plane, unit, frozen(times), frozen(points), interpolation, loop)

    @property
    def members(self) -> tuple[str, ...]:
        return self.plane.members

    def at(self, seconds: float, frame: int) -> Coefficients:
        """The coefficients of a frame's point. Raises UsageError for a time that is no number."""
        left, right, way = located(self, seconds, frame)
        start, end = self.points[left], self.points[right]
        x, y = (start if way == 0.0 else (1.0 - way) * start + way * end).tolist()
        return self.plane.at(x, y)

    def to_json(self) -> dict[str, Any]:
        """As `read` takes it."""
        key, kind = ("frame", int) if self.unit == "frames" else ("time", float)
        keyframes = [{key: kind(time), "at": point} for time, point in zip(self.times, self.points.tolist(), strict=True)]
        more = {"interpolation": self.interpolation, "loop": self.loop, "keyframes": keyframes}
        return {**self.plane.to_json(), "schema": SCHEMA, **more}

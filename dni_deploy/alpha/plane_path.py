"""Alpha over time, from keyframes of points on a control plane.

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
from dni_deploy.alpha.keyframes import ParsedKeyframes, from_pairs, read_json_keyframes
from dni_deploy.alpha.plane import ControlPlane, parse_point
from dni_deploy.alpha.timeline import KeyframeTrack, make_read_only_array, track_to_json, validate_track
from dni_deploy.errors import UsageError
from dni_deploy.utils.text_file import name_file_in_errors, read_json


@dataclass(frozen=True, eq=False)
class PlanePath(KeyframeTrack):
    """A point that moves on straight lines of a control plane; each frame has the coefficients of its point.

    Attributes:
        plane: The control plane.
        points: float64 (K, 2), x and y at each of the times; read-only.
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
        """Makes a path from pairs of a time and a point (x, y).

        The other arguments and the errors are those of AlphaTimeline.from_keyframes.
        """
        return cls._build(plane, from_pairs(keyframes, interpolation, loop, "path"), fps)

    @classmethod
    def from_json(cls, fields: object, members: Sequence[str], *, fps: float | None = None) -> PlanePath:
        """Reads the object of a file.

        Args:
            fields: The object.
            members: Names of the family's members.
            fps: Frame rate; needed only where seconds and frames are mixed.

        Returns:
            The path.

        Raises:
            UsageError: A field has another form, or the keyframes do not rise.
            LimitError: There are too many keyframes.
        """
        plane = ControlPlane.from_json(fields, members)
        assert isinstance(fields, dict)
        if not isinstance(fields.get("keyframes"), list):
            raise UsageError('a path on a control plane has a list "keyframes".')
        return cls._build(plane, read_json_keyframes(fields, ParsedKeyframes("path"), "at"), fps)

    @classmethod
    def read(cls, path: str | os.PathLike[str], members: Sequence[str], *, fps: float | None = None) -> PlanePath:
        """Reads a JSON file; the arguments are those of `from_json`.

        Raises:
            InputError: The file is missing, damaged or does not fit the family.
            LimitError: It is too large.
        """
        fields = read_json(path, "timeline")
        with name_file_in_errors(path):
            return cls.from_json(fields, members, fps=fps)

    @classmethod
    def _build(cls, plane: ControlPlane, keyframes: ParsedKeyframes, fps: float | None) -> PlanePath:
        points = [
            parse_point(point, f"Keyframe {index + 1} at {moment}: the point")
            for index, (moment, point) in enumerate(zip(keyframes.moments, keyframes.values, strict=True))
        ]
        unit, times, interpolation, loop = validate_track(keyframes, fps)
        return cls(plane, unit, times, make_read_only_array(points), interpolation, loop)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members, in family order."""
        return self.plane.members

    def at(self, seconds: float, frame: int) -> Coefficients:
        """Computes the coefficients of a frame's point, as in AlphaSource.

        Raises:
            UsageError: The time is not a finite number.
        """
        before, after, fraction = self.find_interval(seconds, frame)
        start, end = self.points[before], self.points[after]
        x, y = (start if fraction == 0.0 else (1.0 - fraction) * start + fraction * end).tolist()
        return self.plane.at(x, y)

    def to_json(self) -> dict[str, Any]:
        """Returns the path as `read` reads it; numbers come back bit for bit."""
        return {**self.plane.to_json(), **track_to_json(self, "at", self.points.tolist())}

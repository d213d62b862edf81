"""Members at places of a plane, and a point of it as coefficients (the paper's Fig. 8: stroke x style).

plane = ControlPlane.from_places({"mosaic": (0, 0), "fire": (1, 0), "fine": (0, 1), "coarse": (1, 1)}, members)
session.alpha = plane.at(0.3, 0.7)
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from typing import Any

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.keyframes import ALPHA_FILE_SCHEMA_VERSION, check_schema
from dni_deploy.alpha.member_names import require_member
from dni_deploy.alpha.simplex import fix_rounded_sum, interpolate_values
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.text_file import name_file_in_errors, read_json

Point = tuple[float, float]
Triangle = tuple[int, int, int]

MIN_DOUBLE_AREA = 1e-9
"""Twice the area of a triangle that counts; coordinates are up to 1, so that a cross product is off by 1e-16."""

BARYCENTRIC_TOLERANCE = -1e-6
"""A weight this little below 0 is rounding, or, in a triangle too flat to count, on the border to the next one."""

MIN_POINT_DISTANCE = 1e-6
"""Places that are nearer to each other are one."""

MAX_PLACES = 64


@dataclass(frozen=True)
class ControlPlane:
    """Members at places of a plane.

    Four places at the corners of an upright rectangle: bilinear. Otherwise: barycentric in triangles between them. A point
    outside counts as the nearest one inside. At a member's place the coefficients are exactly that member; they change
    continuously.

    Attributes:
        members: Names of the family's members, in its order.
        places: Name and place, in [0, 1] x [0, 1], of 3 or more of them; the others have share 0.
    """

    members: tuple[str, ...]
    places: tuple[tuple[str, Point], ...]

    @classmethod
    def from_places(cls, places: Mapping[str, Sequence[float]], members: Sequence[str]) -> ControlPlane:
        """Makes a plane from the members' places.

        Args:
            places: x and y of each member that has a place, by name.
            members: Names of the family's members, in its order.

        Returns:
            The plane.

        Raises:
            UsageError: There are fewer than 3 places, a name is unknown, or places are outside the plane, equal or all on one
                line.
        """
        names = tuple(members)
        points: dict[str, Point] = {}
        for name, place in places.items():
            name = require_member(name, names)
            if name in points:
                raise UsageError(f"The plane gives {escape_name(name)!r} two places.")
            point = parse_point(place, f"The place of {escape_name(name)!r}")
            if not (0 <= point[0] <= 1 and 0 <= point[1] <= 1):
                raise UsageError(f"The place of {escape_name(name)!r} is ({point[0]:g}, {point[1]:g}); both are from 0 to 1.")
            for other in points:
                if math.dist(points[other], point) < MIN_POINT_DISTANCE:
                    raise UsageError(
                        f"{escape_name(other)!r} and {escape_name(name)!r} are at one place, ({point[0]:g}, {point[1]:g})."
                    )
            points[name] = point
        if not 3 <= len(points) <= MAX_PLACES:
            raise UsageError(f"A plane has 3 to {MAX_PLACES} members; {len(points)} have a place.")
        plane = cls(names, tuple(points.items()))
        if plane._corners is None and not plane._triangles:
            raise UsageError("The members' places are on one line; a plane needs three that are not.")
        return plane

    @classmethod
    def default(cls, members: Sequence[str]) -> ControlPlane:
        """Makes a plane of all members.

        Three are at the corners of a triangle, four at those of the square, left to right and then the next row, and more on a
        circle, clockwise from the top.
        """
        count = len(members)
        if count == 3:
            points: list[Point] = [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)]
        elif count == 4:
            points = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
        else:
            angles = [2 * math.pi * index / max(count, 1) for index in range(count)]
            points = [(0.5 + 0.5 * math.sin(angle), 0.5 - 0.5 * math.cos(angle)) for angle in angles]
        return cls.from_places(dict(zip(members, points, strict=True)), members)

    @classmethod
    def from_json(cls, fields: object, members: Sequence[str]) -> ControlPlane:
        """Reads {"schema": 1, "plane": {"psnr": [0, 0], "gan": [1, 0], ...}}; errors are those of `from_places`."""
        places = fields.get("plane") if isinstance(fields, dict) else None
        if not isinstance(fields, dict) or not isinstance(places, dict):
            raise UsageError('a plane is an object with an object "plane": the place of each member as [x, y].')
        check_schema(fields)
        return cls.from_places(places, members)

    @classmethod
    def read(cls, path: str | os.PathLike[str], members: Sequence[str]) -> ControlPlane:
        """Reads a JSON file.

        Raises:
            InputError: The file is missing, damaged or does not fit the family.
            LimitError: It is too large.
        """
        fields = read_json(path, "plane", 1 << 20)
        with name_file_in_errors(path):
            return cls.from_json(fields, members)

    def to_json(self) -> dict[str, Any]:
        """Returns the plane as `from_json` reads it."""
        return {"schema": ALPHA_FILE_SCHEMA_VERSION, "plane": {name: list(place) for name, place in self.places}}

    def at(self, x: float, y: float) -> Coefficients:
        """Computes the coefficients of a point; they are >= 0 and sum to 1.

        Raises:
            UsageError: x or y is not a finite number.
        """
        point = parse_point((x, y), "The point")
        for name, place in self.places:
            if place == point:
                return Coefficients.one_hot(name, self.members)
        values = dict.fromkeys(self.members, 0.0)
        for index, weight in self._bilinear_weights(point) if self._corners else self._barycentric_weights(point):
            values[self.places[index][0]] += weight
        return Coefficients(self.members, fix_rounded_sum(list(values.values())))

    @cached_property
    def _points(self) -> list[Point]:
        return [place for _, place in self.places]

    @cached_property
    def _corners(self) -> tuple[int, int, int, int] | None:
        """Places at the corners of an upright rectangle: low x and y, high x, high y, both high; None without a rectangle."""
        xs, ys = sorted({x for x, _ in self._points}), sorted({y for _, y in self._points})
        if len(self._points) != 4 or len(xs) != 2 or len(ys) != 2:
            return None
        low_low, high_low, low_high, high_high = (self._points.index((x, y)) for y in ys for x in xs)
        return low_low, high_low, low_high, high_high

    @cached_property
    def _all_triangles(self) -> list[Triangle]:
        return triangulate_points(self._points)

    @cached_property
    def _triangles(self) -> list[Triangle]:
        """Those that are not too flat for barycentric weights."""
        return [
            triangle
            for triangle in self._all_triangles
            if abs(_double_area(*(self._points[index] for index in triangle))) >= MIN_DOUBLE_AREA
        ]

    @cached_property
    def _hull(self) -> list[tuple[int, int]]:
        return find_hull_sides(self._all_triangles)

    def _bilinear_weights(self, point: Point) -> list[tuple[int, float]]:
        assert self._corners is not None
        low, high = self._points[self._corners[0]], self._points[self._corners[3]]
        u, v = (min(max((point[axis] - low[axis]) / (high[axis] - low[axis]), 0.0), 1.0) for axis in (0, 1))
        return list(zip(self._corners, ((1.0 - u) * (1.0 - v), u * (1.0 - v), (1.0 - u) * v, u * v), strict=True))

    def _barycentric_weights(self, point: Point) -> list[tuple[int, float]]:
        weights, triangle = max(
            ((compute_barycentric_weights(point, triangle, self._points), triangle) for triangle in self._triangles),
            key=lambda entry: min(entry[0]),
        )
        if min(weights) >= BARYCENTRIC_TOLERANCE:
            weights = [max(weight, 0.0) for weight in weights]
            total = math.fsum(weights)
            return [(index, weight / total) for index, weight in zip(triangle, weights, strict=True)]
        start, end, fraction = find_nearest_on_sides(point, self._hull, self._points)
        return list(zip((start, end), interpolate_values((1.0, 0.0), (0.0, 1.0), fraction), strict=True))


def triangulate_points(points: Sequence[Point]) -> list[Triangle]:
    """Splits the convex hull of different points into triangles.

    Edges are added from the shortest to the longest, each where no point lies on it and none of the earlier ones crosses it.
    The arithmetic is exact: with rounding, edges of points that are nearly on a line could cross or leave a gap.

    Args:
        points: x and y of each point.

    Returns:
        Indices of the corners of each triangle, none of which is flat; none if all points are on one line.
    """
    scale = max((Fraction(axis).denominator for point in points for axis in point), default=1)  # of floats: a power of 2
    exact = [(int(Fraction(x) * scale), int(Fraction(y) * scale)) for x, y in points]

    def turn(a: int, b: int, c: int) -> int:
        """1 where c lies left of the line from a to b, -1 right of it, 0 on it."""
        area: int = _double_area(exact[a], exact[b], exact[c])
        return (area > 0) - (area < 0)

    def squared_length(a: int, b: int) -> int:
        return (exact[a][0] - exact[b][0]) ** 2 + (exact[a][1] - exact[b][1]) ** 2

    def has_point_between(a: int, b: int) -> bool:
        length = squared_length(a, b)
        return any(turn(a, b, c) == 0 and max(squared_length(a, c), squared_length(b, c)) < length for c in range(len(points)))

    def cross(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return turn(*one, other[0]) * turn(*one, other[1]) < 0 and turn(*other, one[0]) * turn(*other, one[1]) < 0

    def is_empty(a: int, b: int, c: int) -> bool:
        others = set(range(len(points))) - {a, b, c}
        return all({1, -1} <= {turn(a, b, other), turn(b, c, other), turn(c, a, other)} for other in others)

    edges: set[tuple[int, int]] = set()
    for edge in sorted(combinations(range(len(points)), 2), key=lambda edge: (squared_length(*edge), edge)):
        if not has_point_between(*edge) and not any(cross(edge, other) for other in edges):
            edges.add(edge)
    return [
        triangle
        for triangle in combinations(range(len(points)), 3)
        if edges.issuperset(combinations(triangle, 2)) and turn(*triangle) and is_empty(*triangle)
    ]


def find_hull_sides(triangles: Sequence[Triangle]) -> list[tuple[int, int]]:
    """Finds the sides that only one triangle has, as indices of their ends."""
    sides = [side for triangle in triangles for side in combinations(sorted(triangle), 2)]
    return [side for side in sides if sides.count(side) == 1]


def compute_barycentric_weights(point: Point, triangle: Triangle, points: Sequence[Point]) -> list[float]:
    """Computes the barycentric coordinates of a point: one per corner, of any sign, summing to 1 but for rounding."""
    a, b, c = (points[index] for index in triangle)
    area = _double_area(a, b, c)
    return [_double_area(point, b, c) / area, _double_area(point, c, a) / area, _double_area(point, a, b) / area]


def find_nearest_on_sides(point: Point, sides: Sequence[tuple[int, int]], points: Sequence[Point]) -> tuple[int, int, float]:
    """Finds the point on some sides that is nearest to a point.

    Args:
        point: x and y.
        sides: Indices of the ends of each side.
        points: x and y of the ends.

    Returns:
        Indices of the ends of its side, and where it is between them, 0 to 1.
    """
    nearest = (math.inf, 0, 0, 0.0)
    for start, end in sides:
        (ax, ay), (bx, by) = points[start], points[end]
        dx, dy = bx - ax, by - ay
        fraction = ((point[0] - ax) * dx + (point[1] - ay) * dy) / (dx**2 + dy**2)
        fraction = min(max(fraction, 0.0), 1.0)
        distance = math.hypot(point[0] - ax - fraction * dx, point[1] - ay - fraction * dy)
        nearest = min(nearest, (distance, start, end, fraction))
    return nearest[1:]


def _double_area(a: tuple[Any, Any], b: tuple[Any, Any], c: tuple[Any, Any]) -> Any:
    """Twice the signed area of a triangle (a cross product), positive where c lies left of the line from a to b."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def parse_point(place: object, what: str) -> Point:
    """Reads two finite numbers.

    Args:
        place: The pair as a user wrote it.
        what: What it is, to begin the message with.

    Returns:
        x and y.

    Raises:
        UsageError: It is something else.
    """
    try:
        x, y = place  # type: ignore[misc]
        point = (float(x), float(y))  # type: ignore[has-type]
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{what} is {escape_name(repr(place), 60)}; it must be two numbers, x and y.") from None
    if isinstance(place, str) or not all(math.isfinite(axis) for axis in point):
        raise UsageError(f"{what} is {escape_name(repr(place), 60)}; it must be two finite numbers, x and y.")
    return point

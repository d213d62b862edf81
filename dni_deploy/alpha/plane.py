"""ControlPlane: members at places of a plane, and a point of it as coefficients (the paper's Fig. 8: stroke x style).

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
from dni_deploy.alpha.keyframes import ALPHA_FILE_SCHEMA_VERSION
from dni_deploy.alpha.simplex import fix_rounded_sum, interpolate_values
from dni_deploy.errors import InputError, UsageError, escape_name
from dni_deploy.utils.text_file import as_text, load_json, read_bytes

Point = tuple[float, float]

Triangle = tuple[int, int, int]

MIN_DOUBLE_AREA = 1e-9
"""Twice the area; coordinates are up to 1, so that a cross product is off by 1e-16."""

_Exact = tuple[Fraction, Fraction]


def triangulate_points(points: Sequence[Point]) -> list[Triangle]:
    """Triples of indices, each triangle once, none flat; none if all points are on one line. The points differ."""
    exact = [(Fraction(x), Fraction(y)) for x, y in points]
    joints: set[tuple[int, int]] = set()
    for one, other in sorted(combinations(range(len(points)), 2), key=lambda pair: (_squared_distance(exact, *pair), pair)):
        if not any(
            _is_on_segment(exact, one, other, between) for between in range(len(points)) if between not in (one, other)
        ) and not any(_is_crossing(exact, (one, other), joint) for joint in joints):
            joints.add((one, other))
    found = []
    for triangle in combinations(range(len(points)), 3):
        if not all(pair in joints for pair in combinations(triangle, 2)) or _orientation(exact, *triangle) == 0:
            continue
        if not any(_is_inside(exact, triangle, point) for point in range(len(points)) if point not in triangle):
            found.append(triangle)
    return found


def find_hull_sides(triangles: Sequence[Triangle]) -> list[tuple[int, int]]:
    """The sides that only one triangle has."""
    sides = [side for triangle in triangles for side in combinations(sorted(triangle), 2)]
    return [(side[0], side[1]) for side in sides if sides.count(side) == 1]


def is_flat(triangle: Triangle, points: Sequence[Point]) -> bool:
    """Whether it is too flat for `compute_barycentric_weights` to be right."""
    a, b, c = (points[index] for index in triangle)
    return abs(_cross_product(b[0] - a[0], b[1] - a[1], c[0] - a[0], c[1] - a[1])) < MIN_DOUBLE_AREA


def compute_barycentric_weights(point: Point, triangle: Triangle, points: Sequence[Point]) -> tuple[float, float, float]:
    """Barycentric coordinates, of any sign, summing to 1 but for rounding."""
    a, b, c = (points[index] for index in triangle)
    area = _cross_product(b[0] - a[0], b[1] - a[1], c[0] - a[0], c[1] - a[1])
    first = _cross_product(b[0] - point[0], b[1] - point[1], c[0] - point[0], c[1] - point[1]) / area
    second = _cross_product(c[0] - point[0], c[1] - point[1], a[0] - point[0], a[1] - point[1]) / area
    third = _cross_product(a[0] - point[0], a[1] - point[1], b[0] - point[0], b[1] - point[1]) / area
    return first, second, third


def find_nearest_on_sides(point: Point, sides: Sequence[tuple[int, int]], points: Sequence[Point]) -> tuple[int, int, float]:
    """The side that holds the nearest point, and the part of the way along it, 0 to 1."""
    best = (math.inf, 0, 0, 0.0)
    for start, end in sides:
        a, b = points[start], points[end]
        along = (b[0] - a[0], b[1] - a[1])
        way = ((point[0] - a[0]) * along[0] + (point[1] - a[1]) * along[1]) / (along[0] ** 2 + along[1] ** 2)
        way = min(max(way, 0.0), 1.0)
        away = math.hypot(point[0] - a[0] - way * along[0], point[1] - a[1] - way * along[1])
        best = min(best, (away, start, end, way))
    return best[1:]


def _cross_product(ax: float, ay: float, bx: float, by: float) -> float:
    return ax * by - ay * bx


def _squared_distance(points: Sequence[_Exact], one: int, other: int) -> Fraction:
    return (points[one][0] - points[other][0]) ** 2 + (points[one][1] - points[other][1]) ** 2


def _orientation(points: Sequence[_Exact], a: int, b: int, c: int) -> int:
    """1: left, -1: right, 0: on one line."""
    (ax, ay), (bx, by), (cx, cy) = points[a], points[b], points[c]
    turn = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    return (turn > 0) - (turn < 0)


def _is_on_segment(points: Sequence[_Exact], start: int, end: int, point: int) -> bool:
    """Whether the point lies on the line between the two, ends left out."""
    if _orientation(points, start, end, point) != 0:
        return False
    (ax, ay), (bx, by), (px, py) = points[start], points[end], points[point]
    return (px - ax) * (px - bx) + (py - ay) * (py - by) < 0


def _is_crossing(points: Sequence[_Exact], one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two joints without a common end, of which none ends on the other, cross."""
    if set(one) & set(other):
        return False
    return (
        _orientation(points, *one, other[0]) * _orientation(points, *one, other[1]) < 0
        and _orientation(points, *other, one[0]) * _orientation(points, *other, one[1]) < 0
    )


def _is_inside(points: Sequence[_Exact], triangle: Triangle, point: int) -> bool:
    a, b, c = triangle
    turns = {_orientation(points, a, b, point), _orientation(points, b, c, point), _orientation(points, c, a, point)}
    return not {1, -1} <= turns


BARYCENTRIC_TOLERANCE = -1e-6
"""A weight of a triangle that is this little below 0 is rounding, or in a triangle too flat to count, on the border to the next."""

MIN_POINT_DISTANCE = 1e-6
"""Places that are nearer to each other are one."""

MAX_PLACES = 64


@dataclass(frozen=True)
class ControlPlane:
    """members: the family's, in its order; places: in [0, 1] x [0, 1], of 3 or more of them; the others have share 0.

    Four at the corners of an upright rectangle: bilinear. Otherwise: barycentric in triangles between them. A point outside
    counts as the nearest one inside. At a member's place the coefficients are exactly that member; they change continuously.
    """

    members: tuple[str, ...]
    places: tuple[tuple[str, Point], ...]

    @classmethod
    def from_places(cls, places: Mapping[str, Sequence[float]], members: Sequence[str]) -> ControlPlane:
        """Raises UsageError: fewer than 3, nobody's name, outside the plane, two at one place, all on one line."""
        names = tuple(members)
        found: list[tuple[str, Point]] = []
        for name, place in places.items():
            if name not in names:
                raise UsageError(
                    f"The plane names {escape_name(repr(name), 80)}; the members are {', '.join(repr(escape_name(own)) for own in names)}."
                )
            point = parse_point(place, f"The place of {escape_name(name)!r}")
            if not (0 <= point[0] <= 1 and 0 <= point[1] <= 1):
                raise UsageError(f"The place of {escape_name(name)!r} is ({point[0]:g}, {point[1]:g}); both are from 0 to 1.")
            taken = [other for other, there in found if math.dist(there, point) < MIN_POINT_DISTANCE]
            if taken:
                raise UsageError(
                    f"{escape_name(taken[0])!r} and {escape_name(name)!r} are at one place, ({point[0]:g}, {point[1]:g})."
                )
            found.append((name, point))
        if not 3 <= len(found) <= MAX_PLACES:
            raise UsageError(f"A plane has 3 to {MAX_PLACES} members; {len(found)} have a place.")
        plane = cls(names, tuple(found))
        if plane._corners is None and not plane._triangles:
            raise UsageError("The members' places are on one line; a plane needs three that are not.")
        return plane

    @classmethod
    def default(cls, members: Sequence[str]) -> ControlPlane:
        """Three: a triangle. Four: the corners, left to right and then the next row. More: on a circle, clockwise from the top."""
        count = len(members)
        if count == 3:
            points: list[Point] = [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)]
        elif count == 4:
            points = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
        else:
            turns = [2 * math.pi * place / max(count, 1) for place in range(count)]
            points = [(0.5 + 0.5 * math.sin(turn), 0.5 - 0.5 * math.cos(turn)) for turn in turns]
        return cls.from_places(dict(zip(members, points, strict=True)), members)

    @classmethod
    def from_json(cls, fields: object, members: Sequence[str]) -> ControlPlane:
        """{"schema": 1, "plane": {"psnr": [0, 0], "gan": [1, 0], ...}}. Raises UsageError."""
        places = fields.get("plane") if isinstance(fields, dict) else None
        if not isinstance(fields, dict) or not isinstance(places, dict):
            raise UsageError('a plane is an object with an object "plane": the place of each member as [x, y].')
        if fields.get("schema", ALPHA_FILE_SCHEMA_VERSION) != ALPHA_FILE_SCHEMA_VERSION:
            raise UsageError(
                f"its schema is {escape_name(fields['schema'], 40)}; this version reads {ALPHA_FILE_SCHEMA_VERSION}."
            )
        return cls.from_places(places, members)

    @classmethod
    def read(cls, path: str | os.PathLike[str], members: Sequence[str]) -> ControlPlane:
        """A JSON file. Raises InputError, LimitError."""
        data = read_bytes(path, "plane", 1 << 20)
        try:
            return cls.from_json(load_json(as_text(data)), members)
        except UsageError as error:
            raise InputError(f"{escape_name(path)}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """As `read` takes it."""
        return {"schema": ALPHA_FILE_SCHEMA_VERSION, "plane": {name: list(place) for name, place in self.places}}

    def at(self, x: float, y: float) -> Coefficients:
        """The coefficients of a point; >= 0, summing to 1. Raises UsageError: x or y is NaN or infinite."""
        point = parse_point((x, y), "The point")
        for name, place in self.places:
            if place == point:
                return Coefficients.one_hot(name, self.members)
        shares = dict.fromkeys(self.members, 0.0)
        for index, share in self._bilinear_coefficients(point) if self._corners else self._barycentric_coefficients(point):
            shares[self.places[index][0]] += share
        return Coefficients(self.members, fix_rounded_sum(list(shares.values())))

    @cached_property
    def _corners(self) -> tuple[int, int, int, int] | None:
        """The places at the corners of an upright rectangle: low x and y, high x, high y, both; None if they are not there."""
        points = [place for _, place in self.places]
        xs, ys = sorted({x for x, _ in points}), sorted({y for _, y in points})
        if len(points) != 4 or len(xs) != 2 or len(ys) != 2:
            return None
        return (
            points.index((xs[0], ys[0])),
            points.index((xs[1], ys[0])),
            points.index((xs[0], ys[1])),
            points.index((xs[1], ys[1])),
        )

    @cached_property
    def _triangles(self) -> list[Triangle]:
        points = [place for _, place in self.places]
        return [triangle for triangle in self._all_triangles if not is_flat(triangle, points)]

    @cached_property
    def _all_triangles(self) -> list[Triangle]:
        return triangulate_points([place for _, place in self.places])

    @cached_property
    def _hull(self) -> list[tuple[int, int]]:
        return find_hull_sides(self._all_triangles)

    def _bilinear_coefficients(self, point: Point) -> list[tuple[int, float]]:
        assert self._corners is not None
        low, high = self.places[self._corners[0]][1], self.places[self._corners[3]][1]
        u, v = (min(max((point[axis] - low[axis]) / (high[axis] - low[axis]), 0.0), 1.0) for axis in (0, 1))
        shares = ((1.0 - u) * (1.0 - v), u * (1.0 - v), (1.0 - u) * v, u * v)
        return list(zip(self._corners, shares, strict=True))

    def _barycentric_coefficients(self, point: Point) -> list[tuple[int, float]]:
        points = [place for _, place in self.places]
        found = [
            (min(parts), triangle, parts)
            for triangle in self._triangles
            for parts in [compute_barycentric_weights(point, triangle, points)]
        ]
        lowest, triangle, parts = max(found, key=lambda entry: entry[0])
        if lowest >= BARYCENTRIC_TOLERANCE:
            whole = [max(part, 0.0) for part in parts]
            return [(index, part / math.fsum(whole)) for index, part in zip(triangle, whole, strict=True)]
        start, end, way = find_nearest_on_sides(point, self._hull, points)
        shares = interpolate_values((1.0, 0.0), (0.0, 1.0), way)
        return [(start, shares[0]), (end, shares[1])]


def parse_point(place: object, what: str) -> Point:
    """Two finite numbers; `what` begins the sentence of the UsageError."""
    try:
        x, y = place  # type: ignore[misc]
        point = (float(x), float(y))  # type: ignore[has-type]
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{what} is {escape_name(repr(place), 60)}; it must be two numbers, x and y.") from None
    if isinstance(place, str) or not all(math.isfinite(axis) for axis in point):
        raise UsageError(f"{what} is {escape_name(repr(place), 60)}; it must be two finite numbers, x and y.")
    return point

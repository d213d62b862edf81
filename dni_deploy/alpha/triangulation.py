"""Triangulation: a few points of a plane joined to triangles that cover their hull without overlap.

Greedy: of all joints the shortest first, where it crosses none that is there. Decided in exact fractions, so that points of one
circle or line, the usual ones, cannot give triangles that overlap. For dozens of points, not for thousands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

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

"""ControlPlane: one-hot at each member's position, on the simplex and continuous everywhere; triangles cover without overlap."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.plane import ControlPlane, find_hull_sides, triangulate_points
from dni_deploy.errors import DniError, InputError, UsageError

THREE, FOUR = ("a", "b", "c"), ("mosaic", "fire", "fine", "coarse")
CLOSE = 1e-12
"""Barycentric weights of well-shaped triangles are off by some units of 1e-16."""

GRID = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda cell: (cell[0] / 8, cell[1] / 8))
FREE = st.tuples(st.floats(0, 1), st.floats(0, 1))
layouts = st.lists(GRID, min_size=3, max_size=12, unique=True) | st.lists(FREE, min_size=3, max_size=12, unique=True)


def make_plane(points: list[tuple[float, float]]) -> ControlPlane:
    names = tuple(f"m{index}" for index in range(len(points)))
    try:
        return ControlPlane.from_places(dict(zip(names, points, strict=True)), names)
    except UsageError as error:
        assume(False)
        raise AssertionError from error


def test_four_corners_are_bilinear() -> None:
    plane = ControlPlane.default(FOUR)
    assert [plane.at(x, y) for x, y in ((0, 0), (1, 0), (0, 1), (1, 1))] == [Coefficients.one_hot(name, FOUR) for name in FOUR]
    assert plane.at(0.25, 0.5).values == (0.375, 0.125, 0.375, 0.125)
    assert plane.at(0.5, 0).values == (0.5, 0.5, 0, 0)
    assert plane.at(-3, 0.5).values == (0.5, 0, 0.5, 0)  # outside: the nearest point
    assert plane.at(7, 7) == Coefficients.one_hot("coarse", FOUR)


def test_the_corners_in_any_order_and_of_any_upright_rectangle() -> None:
    places = {"fire": (0.8, 0.2), "coarse": (0.8, 0.6), "mosaic": (0.2, 0.2), "fine": (0.2, 0.6)}
    plane = ControlPlane.from_places(places, FOUR)
    for name, place in places.items():
        assert plane.at(*place) == Coefficients.one_hot(name, FOUR)
    assert plane.at(0.5, 0.4).values == pytest.approx((0.25,) * 4, abs=CLOSE)
    assert plane.at(0, 0) == Coefficients.one_hot("mosaic", FOUR)


def test_three_members_are_barycentric() -> None:
    plane = ControlPlane.from_places({"a": (0, 0), "b": (1, 0), "c": (0, 1)}, THREE)
    assert plane.at(0.25, 0.25).values == pytest.approx((0.5, 0.25, 0.25), abs=CLOSE)
    assert plane.at(0.5, 0.5).values == pytest.approx((0, 0.5, 0.5), abs=CLOSE)
    assert plane.at(1, 1).values == pytest.approx((0, 0.5, 0.5), abs=CLOSE)  # outside: the nearest point of the side
    assert plane.at(-1, -5) == Coefficients.one_hot("a", THREE)


def test_members_outside_the_plane_have_coefficient_0() -> None:
    plane = ControlPlane.from_places({"a": (0, 0), "C": (1, 0), "e": (0, 1)}, ("a", "b", "c", "d", "e"))
    coefficients = plane.at(0.25, 0.25).values
    assert (coefficients[1], coefficients[3]) == (0, 0)
    assert math.fsum(coefficients) == 1


@given(layouts, st.tuples(st.floats(-2, 3), st.floats(-2, 3)))
def test_any_point_of_any_plane_is_on_the_simplex(points: list[tuple[float, float]], point: tuple[float, float]) -> None:
    plane = make_plane(points)
    coefficients = plane.at(*point)
    assert Coefficients.parse(coefficients, plane.members) == coefficients
    assert abs(math.fsum(coefficients.values) - 1) <= 2**-51
    for name, place in plane.places:
        assert plane.at(*place) == Coefficients.one_hot(name, plane.members)


@given(layouts, FREE)
def test_coefficients_reproduce_the_point(points: list[tuple[float, float]], point: tuple[float, float]) -> None:
    """For barycentric and bilinear weights the sum of coefficient * position is the point; outside, the nearest point of the hull."""
    plane = make_plane(points)
    places = np.array([place for _, place in plane.places])
    point_back = plane.at(*point).to_array() @ places
    inside = np.array(point)
    # The distance to the hull, computed independently: the nearest of many sampled points of it.
    mixtures = np.concatenate([np.linspace(places[i], places[j], 65) for i, j in combinations(range(len(places)), 2)])
    nearest = np.min(np.linalg.norm(mixtures - inside, axis=1))
    assert np.linalg.norm(point_back - inside) <= nearest + 1e-5  # INSIDE tolerates points up to 1e-6 outside a border


@given(layouts, st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2)), st.floats(0, 2 * math.pi))
def test_coefficients_change_continuously(points: list[tuple[float, float]], point: tuple[float, float], angle: float) -> None:
    """A step changes the coefficients by no more than its length divided by the height of the flattest triangle."""
    plane = make_plane(points)
    places = [place for _, place in plane.places]
    heights = [
        abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
        / max(math.dist(a, b), math.dist(b, c), math.dist(a, c))
        for a, b, c in ((places[i], places[j], places[k]) for i, j, k in combinations(range(len(places)), 3))
    ]
    height = min(height for height in heights if height > 0)
    assume(height > 1e-3)
    step = 1e-7
    coefficients = plane.at(*point).to_array()
    moved = plane.at(point[0] + step * math.cos(angle), point[1] + step * math.sin(angle)).to_array()
    assert np.max(np.abs(moved - coefficients)) <= step / height * 2 + 1e-5  # INSIDE, as above


@pytest.mark.parametrize("count", [5, 6, 7, 12, 16])
def test_points_on_triangle_borders_are_inside(count: int) -> None:
    """Rounding may put such a point outside both of its triangles; it must still count as inside the plane."""
    names = tuple(f"m{index}" for index in range(count))
    plane = ControlPlane.default(names)
    places = np.array([place for _, place in plane.places])
    for one, other in combinations(range(count), 2):
        for fraction in np.linspace(0, 1, 41):
            point = (1 - fraction) * places[one] + fraction * places[other]
            point_back = plane.at(float(point[0]), float(point[1])).to_array() @ places
            assert np.linalg.norm(point_back - point) < 1e-5  # INSIDE, as above


def test_almost_collinear_members_leave_no_gap() -> None:
    """The first three are collinear but for rounding; their triangle has no area in floats and is skipped without leaving a gap."""
    line = [(0.8, 0.9), (0.7000000000000001, 0.6000000000000001), (0.6000000000000001, 0.3000000000000001)]
    for other_points in ([(0.1, 0.5)], [(0.1, 0.5), (1.0, 0.4)]):
        names = tuple("abcde"[: 3 + len(other_points)])
        plane = ControlPlane.from_places(dict(zip(names, line + other_points, strict=True)), names)
        corners = np.array(line + other_points)
        mixtures = np.random.default_rng(0).dirichlet([1] * len(corners), 500)
        points_on_line = np.array([[1 - fraction, 0, fraction] for fraction in np.linspace(0, 1, 200)]) @ corners[:3]
        for x, y in np.concatenate([mixtures @ corners, points_on_line]).tolist():
            assert np.linalg.norm(plane.at(x, y).to_array() @ corners - (x, y)) < 1e-5


def test_triangulation_takes_the_shorter_diagonal() -> None:
    assert triangulate_points([(0.0, 0.5), (1.0, 0.5), (0.5, 0.4), (0.5, 0.6)]) == [(0, 2, 3), (1, 2, 3)]


@given(layouts)
def test_triangles_cover_the_hull_without_overlap(points: list[tuple[float, float]]) -> None:
    """The triangles' areas add up exactly to the area of the hull, computed as a fan of triangles from one of its corners."""
    triangles = triangulate_points(points)
    exact = [(Fraction(x), Fraction(y)) for x, y in points]

    def area(a: int, b: int, c: int) -> Fraction:
        (ax, ay), (bx, by), (cx, cy) = exact[a], exact[b], exact[c]
        return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)

    # The convex hull by Andrew's monotone chain.
    order = sorted(range(len(points)), key=lambda index: exact[index])
    hull: list[int] = []
    for points_in_order in (order, order[::-1]):
        start = len(hull)
        for index in points_in_order:
            while len(hull) - start >= 2 and area(hull[-2], hull[-1], index) <= 0:
                hull.pop()
            hull.append(index)
        hull.pop()
    hull_area = sum(area(hull[0], hull[place], hull[place + 1]) for place in range(1, len(hull) - 1))
    assert sum(abs(area(*triangle)) for triangle in triangles) == hull_area
    assert {index for triangle in triangles for index in triangle} == (set(range(len(points))) if hull_area else set())
    assert set(hull) <= {index for side in find_hull_sides(triangles) for index in side} or not hull_area


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"a": (0, 0), "b": (1, 0)}, "2 have a place"),
        ({"a": (0, 0), "b": (1, 0), "x": (0, 1)}, "no member 'x'"),
        ({"a": (0, 0), "b": (1, 0), "c": (0, 0)}, "'a' and 'c' are at one place"),
        ({"a": (0, 0), "b": (0.5, 0.5), "c": (1, 1)}, "on one line"),
        ({"a": (0, 0), "b": (0.1, 0.3), "c": (0.2, 0.6)}, "on one line"),  # 0.6 is not twice 0.3 in floats of 0.1
        ({"a": (0, 0), "b": (1, 0), "c": (0, 1.5)}, "from 0 to 1"),
        ({"a": (0, 0), "b": (1, 0), "c": (0, math.nan)}, "finite"),
        ({"a": (0, 0), "b": (1, 0), "c": (0, 1, 2)}, "two numbers"),
        ({"a": (0, 0), "b": (1, 0), "c": "01"}, "two finite numbers"),
        ({"a": (0, 0), "b": (1, 0), "c": None}, "two numbers"),
        ({"a": (0, 0), "b": (1, 0), "c": (0, 10**400)}, "two numbers"),
    ],
)
def test_invalid_planes_are_refused(places: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ControlPlane.from_places(places, THREE)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("point", [(math.nan, 0), (0, math.inf), (None, 0), ("x", 0)])
def test_invalid_points_are_refused(point: Any) -> None:
    for plane in (ControlPlane.default(THREE), ControlPlane.default(FOUR)):
        with pytest.raises(UsageError, match="The point"):
            plane.at(*point)


def test_default_planes_have_a_place_for_each_member() -> None:
    for count in range(3, 17):
        names = tuple(f"m{index}" for index in range(count))
        plane = ControlPlane.default(names)
        assert plane.members == names
        assert [plane.at(*place) for _, place in plane.places] == [Coefficients.one_hot(name, names) for name in names]
    for count in (0, 1, 2):
        with pytest.raises(UsageError, match="3 to"):
            ControlPlane.default(THREE[:count])


def test_plane_file_round_trip(tmp_path: Path) -> None:
    plane = ControlPlane.from_places({"a": (0.1, 1 / 3), "b": (1, 0), "c": (0, 1)}, THREE)
    file = tmp_path / "plane.json"
    file.write_text(json.dumps(plane.to_json()))
    assert ControlPlane.read(file, THREE) == plane
    for content in (b"", b"[]", b'{"plane": 3}', b'{"plane": {"a": [0]}}', b'{"schema": 2, "plane": {}}', b"\xff"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"plane\.json"):
            ControlPlane.read(file, THREE)


anything = st.recursive(
    st.none() | st.floats() | st.text(max_size=3) | st.sampled_from(THREE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from((*THREE, "plane", "x")), inner, max_size=4),
    max_leaves=8,
)


@given(anything)
def test_any_json_gives_a_plane_or_one_line_error(fields: Any) -> None:
    for attempt in (fields, {"plane": fields}):
        message = "x"
        try:
            ControlPlane.from_json(attempt, THREE)
        except DniError as error:
            message = str(error)
        assert message.isprintable()

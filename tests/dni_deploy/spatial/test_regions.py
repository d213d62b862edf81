"""Regions: every needed pixel is in exactly one rectangle, and the rectangles are cheap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_deploy.spatial.regions import MIN_REGION_SIDE_PX, RUN_COST_PX, Rect, find_regions


def cost(rects: list[Rect], size: tuple[int, int], halo: int) -> int:
    """Computes the cost of the rectangles one by one."""
    total = 0
    for rect in rects:
        sides = []
        for low, high, end in ((rect.top, rect.bottom, size[0]), (rect.left, rect.right, size[1])):
            sides.append(max(min(high + halo, end) - max(low - halo, 0), min(MIN_REGION_SIDE_PX, end)))
        total += sides[0] * sides[1] + RUN_COST_PX
    return total


def blobs(seed: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    required = np.zeros((height, width), np.bool_)
    for _ in range(random.integers(0, 6)):
        top, left = random.integers(0, height), random.integers(0, width)
        required[top : top + random.integers(1, height + 1), left : left + random.integers(1, width + 1)] = True
    return required


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(1, 150), st.integers(0, 20), st.sampled_from([0, 48, 64]))
def test_every_needed_pixel_is_in_exactly_one_rectangle(seed: int, height: int, width: int, halo: int, limit: int) -> None:
    required = blobs(seed, height, width)
    rects = find_regions(required, halo, limit)
    times = np.zeros(required.shape, np.int64)
    for rect in rects:
        assert rect.area > 0
        times[rect.top : rect.bottom, rect.left : rect.right] += 1
        inside = required[rect.top : rect.bottom, rect.left : rect.right]
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()  # noqa: PT018
        for low, high, end in ((rect.top, rect.bottom, height), (rect.left, rect.right, width)):
            assert not limit or min(high + halo, end) - max(low - halo, 0) <= limit
    assert times.max(initial=0) <= 1
    assert (times[required] == 1).all()
    if rects and not limit:
        rows, columns = np.flatnonzero(required.any(axis=1)), np.flatnonzero(required.any(axis=0))
        whole = Rect(rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
        assert cost(rects, required.shape, halo) <= cost([whole], required.shape, halo)


def test_half_a_frame_is_one_rectangle() -> None:
    required = np.zeros((512, 512), np.bool_)
    required[:, :250] = True
    assert find_regions(required, 17) == [Rect(0, 512, 0, 250)]
    assert find_regions(np.zeros((9, 9), np.bool_), 3) == []


@pytest.mark.parametrize("halo", [0, 8])
def test_separate_corners_and_an_l_shape_are_split(halo: int) -> None:
    corners = np.zeros((480, 480), np.bool_)
    corners[:100, :120] = corners[400:, 360:] = True
    assert find_regions(corners, halo) == [Rect(0, 100, 0, 120), Rect(400, 480, 360, 480)]
    shape = np.zeros((480, 480), np.bool_)
    shape[:, :80] = shape[400:] = True
    assert sum(rect.area for rect in find_regions(shape, halo)) == 480 * 80 + 80 * 400


def test_a_ring_is_covered_more_cheaply_than_its_square() -> None:
    """The first cut through a ring gains nothing, so a search that looks ahead by one cut would keep the square."""
    required = np.ones((480, 480), np.bool_)
    required[80:400, 80:400] = False
    assert sum(rect.area for rect in find_regions(required, 4)) == 480**2 - 320**2


def test_scattered_pixels_share_one_rectangle() -> None:
    required = np.zeros((200, 200), np.bool_)
    required[50:80:9, 60:90:9] = True
    assert len(find_regions(required, 10)) == 1

"""Few rectangles that cover the needed pixels of an image at the least cost for a network.

A rectangle costs its area with the context that the network needs around it (cut off at the image's border), and a
little for being a run of its own. Among all ways to cut an image again and again across its whole width or height along the
lines of a grid, the cheapest is found; each part then shrinks to the pixels that are needed in it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GRID_LINES = 12
"""Lines of the grid a side: the search takes GRID_LINES ** 2 * 2 * GRID_LINES steps over small arrays, some ten
milliseconds."""

RUN_COST_PX = 64 * 64
"""What a run costs beside its pixels, in pixels: keeps the small parts of a map together."""

MIN_REGION_SIDE_PX = 32
"""Least side of what is run: the smallest shape that engines are built for by default (engines/profile.py)."""

MAX_COST_RATIO = 1.05
"""Cost over the least that any cover needs, below which no better one is searched for."""

EMPTY_COST = 1 << 30


class Rect(NamedTuple):
    """Rows top to bottom, columns left to right, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width


def find_regions(needed: NDArray[np.bool_], halo: int, limit: int = 0) -> list[Rect]:
    """Finds disjoint rectangles that hold every needed pixel.

    Args:
        needed: bool (H, W).
        halo: Pixels of context on every side.
        limit: Largest side of a rectangle with its context in pixels, above 2 * halo; 0 for none.

    Returns:
        Rectangles, row by row; none if nothing is needed.
    """
    height, width = needed.shape
    rows, columns = pairwise(_split_side(height, halo, limit)), list(pairwise(_split_side(width, halo, limit)))
    blocks = [Rect(*row, *column) for row in rows for column in columns]
    return sorted(rect for block in blocks for rect in _cover_block(needed, block, halo))


def _split_side(size: int, halo: int, limit: int) -> list[int]:
    if limit == 0 or size <= limit:
        return [0, size]
    count = -(-size // (limit - 2 * halo))
    return [size * index // count for index in range(count + 1)]


def _cover_block(needed: NDArray[np.bool_], block: Rect, halo: int) -> list[Rect]:
    """The cheapest rectangles within one block."""
    inside = needed[block.top : block.bottom, block.left : block.right]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if rows.size == 0:
        return []
    whole = Rect(
        block.top + int(rows[0]), block.top + int(rows[-1]) + 1, block.left + int(columns[0]), block.left + int(columns[-1]) + 1
    )
    cost = _compute_cost(np.array(whole).reshape(4, 1, 1), needed.shape, halo)[0, 0]
    if cost <= MAX_COST_RATIO * (_count_context_pixels(needed, whole, halo) + RUN_COST_PX):
        return [whole]
    return _RegionSearch(needed, whole, halo).collect_regions()


def _compute_cost(bounds: NDArray[np.int64], size: tuple[int, ...], halo: int) -> NDArray[np.int64]:
    """The pixels that runs over `bounds` (4, ...) (top, bottom, left, right) take, each with RUN_COST_PX; 0 if empty."""
    sides = []
    for low, high, end in ((bounds[0], bounds[1], size[0]), (bounds[2], bounds[3], size[1])):
        side = np.minimum(high + halo, end) - np.maximum(low - halo, 0)
        sides.append(np.maximum(side, min(MIN_REGION_SIDE_PX, end)))
    return np.asarray(np.where(bounds[1] > bounds[0], sides[0] * sides[1] + RUN_COST_PX, 0))


def _count_context_pixels(needed: NDArray[np.bool_], whole: Rect, halo: int) -> int:
    """How many pixels are within `halo` of a needed one of `whole`: all of them go in, whatever the rectangles."""
    inside = needed[whole.top : whole.bottom, whole.left : whole.right]
    context = [
        (min(halo, whole.top), min(halo, needed.shape[0] - whole.bottom)),
        (min(halo, whole.left), min(halo, needed.shape[1] - whole.right)),
    ]
    near: NDArray[np.bool_] = np.pad(inside, context)
    for _ in range(2):  # along the rows, then along the columns
        counts = np.pad(near.cumsum(axis=0, dtype=np.int32), ((1, 0), (0, 0)))
        index = np.arange(near.shape[0])
        within = counts[np.minimum(index + halo + 1, near.shape[0])] - counts[np.maximum(index - halo, 0)]
        near = (within > 0).T
    return int(np.count_nonzero(near))


class _RegionSearch:
    """All rectangles of grid cells, from small to large: [h, w] holds those of h x w cells by where they begin."""

    def __init__(self, needed: NDArray[np.bool_], whole: Rect, halo: int) -> None:
        self._rows = _make_grid_lines(whole.top, whole.bottom)
        self._columns = _make_grid_lines(whole.left, whole.right)
        self._bounds = {(1, 1): _find_cell_bounds(needed, self._rows, self._columns)}
        self._costs: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._best_cut: dict[tuple[int, int], NDArray[np.int64]] = {}
        for height in range(1, len(self._rows)):
            for width in range(1, len(self._columns)):
                self._solve_size(height, width, needed.shape, halo)

    def _solve_size(self, height: int, width: int, size: tuple[int, ...], halo: int) -> None:
        if height > 1:
            self._bounds[height, width] = _union_bounds(
                self._bounds[height - 1, width][:, :-1], self._bounds[1, width][:, height - 1 :]
            )
        elif width > 1:
            self._bounds[1, width] = _union_bounds(self._bounds[1, width - 1][:, :, :-1], self._bounds[1, 1][:, :, width - 1 :])
        # Uncut, then cut before each row, then before each column.
        costs = [_compute_cost(self._bounds[height, width], size, halo)]
        down, across = costs[0].shape
        costs += [
            self._costs[row, width][:down] + self._costs[height - row, width][row : row + down] for row in range(1, height)
        ]
        costs += [
            self._costs[height, column][:, :across] + self._costs[height, width - column][:, column : column + across]
            for column in range(1, width)
        ]
        stacked = np.stack(costs)
        self._costs[height, width], self._best_cut[height, width] = stacked.min(axis=0), stacked.argmin(axis=0)

    def collect_regions(self) -> list[Rect]:
        """Follows the cheapest cuts down to the parts that are run whole."""
        regions: list[Rect] = []
        open_parts = [(len(self._rows) - 1, len(self._columns) - 1, 0, 0)]
        while open_parts:
            height, width, row, column = open_parts.pop()
            cut = int(self._best_cut[height, width][row, column])
            if 0 < cut < height:
                open_parts += [(cut, width, row, column), (height - cut, width, row + cut, column)]
            elif cut:
                cut -= height - 1
                open_parts += [(height, cut, row, column), (height, width - cut, row, column + cut)]
            else:
                part = Rect(*(int(edge) for edge in self._bounds[height, width][:, row, column]))
                if part.bottom > part.top:
                    regions.append(part)
        return regions


def _make_grid_lines(start: int, end: int) -> list[int]:
    count = min(GRID_LINES, end - start)
    return [start + (end - start) * index // count for index in range(count + 1)]


def _find_cell_bounds(needed: NDArray[np.bool_], rows: list[int], columns: list[int]) -> NDArray[np.int64]:
    """Top, bottom, left and right of what is needed in each cell: int64 (4, rows, columns)."""
    bounds = np.empty((4, len(rows) - 1, len(columns) - 1), np.int64)
    bounds[0], bounds[1], bounds[2], bounds[3] = EMPTY_COST, -EMPTY_COST, EMPTY_COST, -EMPTY_COST
    for row, (top, bottom) in enumerate(pairwise(rows)):
        for column, (left, right) in enumerate(pairwise(columns)):
            cell = needed[top:bottom, left:right]
            down, across = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
            if down.size:
                bounds[:, row, column] = top + down[0], top + down[-1] + 1, left + across[0], left + across[-1] + 1
    return bounds


def _union_bounds(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    low, high = np.minimum(first, second), np.maximum(first, second)
    return np.stack([low[0], high[1], low[2], high[3]])

"""ChannelScale: multiply rows of weights in the arena by a number per output channel, in as few passes as the layout allows.

ONNX Runtime's layouts keep 16 or 8 output channels side by side, so that a plain broadcast would multiply in runs of 16. The scale
is repeated to longer runs first, and weights of one shape that lie side by side in the arena are one multiplication: for DnCNN's 15
folds that is a third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.layout import Layout

MAX_RUN_FLOATS = 1024
"""Floats per run, at most."""


class ChannelScale(Protocol):
    def multiply(self, scale: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Scale this weight's rows in `out`, the whole arena: scale float32, the channels of all folds one after another."""


@dataclass(frozen=True)
class BlockedChannelScale:
    """Weights whose element (outer, k, inner) belongs to channel columns[outer * inner_size + inner]; dense from start to stop."""

    start: int
    stop: int
    columns: NDArray[np.intp]
    inner_channels: int

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """(outer, depth, repeat): repeat is how often the inner channels are repeated to one run."""
        depth = (self.stop - self.start) // self.columns.size
        repeat = max(r for r in range(1, min(depth, max(1, MAX_RUN_FLOATS // self.inner_channels)) + 1) if depth % r == 0)
        return self.columns.size // self.inner_channels, depth, repeat

    def multiply(self, scale: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        outer, depth, repeat = self._shape
        runs = np.tile(scale[self.columns].reshape(outer, 1, self.inner_channels), (1, 1, repeat))
        weights = out[self.start : self.stop].reshape(outer, depth // repeat, self.inner_channels * repeat)
        weights *= runs


@dataclass(frozen=True)
class ScatteredChannelScale:
    """Weights in any other layout: a column for each of their places."""

    positions: NDArray[np.intp]
    columns: NDArray[np.intp]

    def multiply(self, scale: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        out[self.positions] *= scale[self.columns]


def make_channel_scales(recipes: Recipes, layout: Layout) -> Sequence[ChannelScale]:
    """The scaled weights of all folds, those that lie side by side joined."""
    found: list[ChannelScale] = []
    blocked: list[BlockedChannelScale] = []
    column = 0
    for fold in recipes.folds:
        shape = recipes.linear[fold.weight].shape
        places, element = layout.find_positions(fold.weight, int(np.prod(shape)))
        channel = np.unravel_index(element, shape)[fold.axis] + column
        inner = _count_inner_channels(places, channel - column)
        if inner:
            columns = np.arange(column, column + shape[fold.axis])
            blocked.append(BlockedChannelScale(int(places[0]), int(places[-1]) + 1, columns, inner))
        else:
            found.append(ScatteredChannelScale(places, channel))
        column += shape[fold.axis]
    return [*found, *_merge_ranges(sorted(blocked, key=lambda rows: rows.start))]


def _merge_ranges(blocked: list[BlockedChannelScale]) -> list[BlockedChannelScale]:
    groups = [[rows] for rows in blocked[:1]]
    for before, rows in pairwise(blocked):
        alike = (before.inner_channels, before.columns.size, before.stop - before.start) == (
            rows.inner_channels, rows.columns.size, rows.stop - rows.start
        )  # fmt: skip
        if alike and before.stop == rows.start:
            groups[-1].append(rows)
        else:
            groups.append([rows])
    return [
        BlockedChannelScale(
            group[0].start, group[-1].stop, np.concatenate([rows.columns for rows in group]), group[0].inner_channels
        )
        for group in groups
    ]


def _count_inner_channels(places: NDArray[np.intp], channel: NDArray[np.intp]) -> int:
    """How many channels lie side by side, where the weight is dense and blocked: 16, 8, or 1 (channels first); else 0."""
    if not np.array_equal(places, np.arange(places[0], places[0] + places.size)):
        return 0
    channels = int(channel.max()) + 1
    for inner in (16, 8, 1):
        if channels % inner == 0 and channel.size % channels == 0:
            shaped = channel.reshape(channels // inner, -1, inner)
            if np.array_equal(shaped, np.broadcast_to(np.arange(channels).reshape(-1, 1, inner), shaped.shape)):
                return inner
    return 0

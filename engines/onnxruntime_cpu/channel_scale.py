"""The multiplication of weights by a number per output channel, in as few passes as the layout allows.

ONNX Runtime's layouts keep 16 or 8 output channels side by side, so that a plain broadcast would multiply in runs of 16. The
scale is repeated to longer runs first, and weights of one shape that lie side by side in the buffer are one multiplication: for
DnCNN's 15 folds that is a third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.layout import Layout

MAX_RUN_FLOATS = 256


class ChannelScale(Protocol):
    """The weights of one or several folds in a buffer."""

    def multiply(self, scale: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Scales the weights.

        Args:
            scale: float32 (C,), the channels of all folds one after another.
            out: float32 (P,), the whole weight buffer.
        """


@dataclass(frozen=True)
class BlockedChannelScale:
    """Dense weights whose element (outer, k, inner) belongs to channel columns[outer * inner_channels + inner].

    Attributes:
        start: Position of the first weight in the buffer.
        stop: Position behind the last.
        columns: int (C,), indices into the scale.
        inner_channels: Number of channels that lie side by side.
    """

    start: int
    stop: int
    columns: NDArray[np.intp]
    inner_channels: int

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """Sizes (outer, depth, repeat); repeat is how often the inner channels are repeated to one run."""
        depth = (self.stop - self.start) // self.columns.size
        repeat = max(r for r in range(1, min(depth, max(1, MAX_RUN_FLOATS // self.inner_channels)) + 1) if depth % r == 0)
        return self.columns.size // self.inner_channels, depth, repeat

    def multiply(self, scale: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Scales the weights run by run, as `ChannelScale.multiply`."""
        outer, depth, repeat = self._shape
        runs = np.tile(scale[self.columns].reshape(outer, 1, self.inner_channels), (1, 1, repeat))
        weights = out[self.start : self.stop].reshape(outer, depth // repeat, self.inner_channels * repeat)
        weights *= runs


@dataclass(frozen=True)
class ScatteredChannelScale:
    """Weights in any other layout.

    Attributes:
        positions: int (K,), where each weight lies in the buffer.
        columns: int (K,), the index of its channel in the scale.
    """

    positions: NDArray[np.intp]
    columns: NDArray[np.intp]

    def multiply(self, scale: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Scales the weights one by one, as `ChannelScale.multiply`."""
        out[self.positions] *= scale[self.columns]


def make_channel_scales(recipes: Recipes, layout: Layout) -> Sequence[ChannelScale]:
    """Makes the channel scales of all folds; weights of one shape that lie side by side become one.

    Args:
        recipes: The folds, and the shapes of their weights.
        layout: Where the weights lie.

    Returns:
        The channel scales, which together cover every scaled weight once.
    """
    scattered: list[ChannelScale] = []
    blocked: list[BlockedChannelScale] = []
    column = 0
    for fold in recipes.folds:
        shape = recipes.linear[fold.weight].shape
        positions, element = layout.find_positions(fold.weight, int(np.prod(shape)))
        channel = np.unravel_index(element, shape)[fold.axis]
        inner = _count_inner_channels(positions, channel)
        if inner:
            columns = np.arange(column, column + shape[fold.axis])
            blocked.append(BlockedChannelScale(int(positions[0]), int(positions[-1]) + 1, columns, inner))
        else:
            scattered.append(ScatteredChannelScale(positions, channel + column))
        column += shape[fold.axis]
    return [*scattered, *_merge_ranges(sorted(blocked, key=lambda scale: scale.start))]


def _merge_ranges(blocked: list[BlockedChannelScale]) -> list[BlockedChannelScale]:
    merged: list[BlockedChannelScale] = []
    shape: tuple[int, ...] = ()
    for scale in blocked:
        shape_before, shape = shape, (scale.inner_channels, scale.columns.size, scale.stop - scale.start)
        if merged and shape == shape_before and merged[-1].stop == scale.start:
            before = merged.pop()
            columns = np.concatenate([before.columns, scale.columns])
            scale = BlockedChannelScale(before.start, scale.stop, columns, scale.inner_channels)
        merged.append(scale)
    return merged


def _count_inner_channels(positions: NDArray[np.intp], channel: NDArray[np.intp]) -> int:
    """Counts the channels side by side, where the weight is dense and blocked: 16, 8, or 1 (channels first); else 0."""
    if not np.array_equal(positions, np.arange(positions[0], positions[0] + positions.size)):
        return 0
    channels = int(channel.max()) + 1
    for inner in (16, 8, 1):
        if channels % inner == 0 and channel.size % channels == 0:
            shaped = channel.reshape(channels // inner, -1, inner)
            if np.array_equal(shaped, np.broadcast_to(np.arange(channels).reshape(-1, 1, inner), shaped.shape)):
                return inner
    return 0

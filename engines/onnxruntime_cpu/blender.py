"""Blender: computes the blended weights, always from the pristine members, straight into an arena.

Members lie as rows of one (N, P) matrix, in the layout of the optimized graph, so that a change of alpha is one matrix-vector
product. Folded BatchNorms follow: scale and shift from the blended statistics, then each scaled row of the arena is multiplied in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blend import blend_rows
from dni_deploy.errors import EngineError
from engines.onnxruntime_cpu.arena import aligned
from engines.onnxruntime_cpu.layout import Layout
from engines.onnxruntime_cpu.recipes import Fold, Recipes


class Blender:
    """members: per member the family's tensors by name; they are copied, and read-only from then on."""

    def __init__(self, layout: Layout, recipes: Recipes, members: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self.rows = aligned((len(members), layout.size))
        for row, tensors in zip(self.rows, members, strict=True):
            layout.row({name: recipe.value(tensors) for name, recipe in recipes.linear.items()}, row)
        self.rows.flags.writeable = False
        sources = sorted({name for fold in recipes.folds for name in fold.sources})
        self._statistics = {
            name: np.stack([tensors[name].astype(np.float64) for tensors in members]) for name in sources
        }
        self._folds = [_PlacedFold(fold, layout, recipes) for fold in recipes.folds]

    def blend(self, shares: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Write the blend into `out`, float32 (P,): shares float64 (N,). The same shares always give the same bytes."""
        blend_rows(self.rows, shares, out)
        if not self._folds:
            return
        used = np.flatnonzero(shares)
        blended = {name: shares[used] @ rows[used] for name, rows in self._statistics.items()}
        for fold in self._folds:
            fold.apply(blended, out)


class _PlacedFold:
    """A Fold with the places of its weight and bias in the arena."""

    def __init__(self, fold: Fold, layout: Layout, recipes: Recipes) -> None:
        self._fold = fold
        shape = recipes.linear[fold.weight].shape
        where, element = layout.places(fold.weight, int(np.prod(shape)))
        channel = np.unravel_index(element, shape)[fold.axis]
        self._start, self._stop = int(where[0]), int(where[-1]) + 1
        self._block = _blocks(where - self._start, channel)
        if self._block is None:
            self._where, self._channel = where, channel
        self._bias_where, self._bias_channel = layout.places(fold.bias, shape[fold.axis])

    def apply(self, blended: Mapping[str, NDArray[np.float64]], out: NDArray[np.float32]) -> None:
        with np.errstate(invalid="ignore", divide="ignore"):
            scale, shift = self._fold.scale_and_shift(blended)
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise EngineError(f"BatchNorm {self._fold.variance!r}: the blended variance is not positive at this alpha.")
        narrow = scale.astype(np.float32)
        if self._block is None:
            out[self._where] *= narrow[self._channel]
        else:
            outer, inner = self._block
            weights = out[self._start : self._stop].reshape(outer, -1, inner)
            weights *= narrow.reshape(outer, 1, inner)
        out[self._bias_where] = shift[self._bias_channel]


def _blocks(where: NDArray[np.intp], channel: NDArray[np.intp]) -> tuple[int, int] | None:
    """(outer, inner) where the weight is dense and element (o, k, i) has channel o * inner + i, as in every layout of
    ONNX Runtime that blocks output channels (inner 16 or 8) or leaves them first (inner 1); None for anything else."""
    if not np.array_equal(where, np.arange(where.size)):
        return None
    channels = int(channel.max()) + 1
    for inner in (16, 8, 1):
        if channels % inner == 0 and where.size % channels == 0:
            shaped = channel.reshape(channels // inner, -1, inner)
            if np.array_equal(shaped, np.broadcast_to(np.arange(channels).reshape(-1, 1, inner), shaped.shape)):
                return channels // inner, inner
    return None

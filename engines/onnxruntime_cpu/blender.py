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
from engines.onnxruntime_cpu.row_scale import fold_runs
from engines.recipes import Recipes, scale_and_shift


class Blender:
    """members: per member the family's tensors by name; they are copied, and read-only from then on."""

    def __init__(self, layout: Layout, recipes: Recipes, members: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self.rows = aligned((len(members), layout.size))
        for row, tensors in zip(self.rows, members, strict=True):
            layout.row({name: recipe.value(tensors) for name, recipe in recipes.linear.items()}, row)
        self.rows.flags.writeable = False
        if not recipes.folds:
            self._statistics = None
            return
        self._statistics = np.stack(
            [np.concatenate([fold.statistics(tensors) for fold in recipes.folds], axis=1) for tensors in members]
        )
        self._weights = fold_runs(recipes, layout)
        columns = np.cumsum([0, *(recipes.linear[fold.bias].shape[0] for fold in recipes.folds)])
        places = [layout.places(fold.bias, recipes.linear[fold.bias].shape[0]) for fold in recipes.folds]
        self._bias_places = np.concatenate([where for where, _ in places])
        self._bias_columns = np.concatenate([channel + column for (_, channel), column in zip(places, columns, strict=False)])

    def blend(self, shares: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Write the blend into `out`, float32 (P,): shares float64 (N,). The same shares always give the same bytes.

        Raises EngineError where a blended variance is not positive, which only extrapolation can bring about.
        """
        blend_rows(self.rows, shares, out)
        if self._statistics is None:
            return
        used = np.flatnonzero(shares)
        scale, shift = scale_and_shift(np.tensordot(shares[used], self._statistics[used], 1))
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise EngineError("A BatchNorm's blended variance is not positive at this alpha.")
        narrow = scale.astype(np.float32)
        for weights in self._weights:
            weights.multiply(narrow, out)
        out[self._bias_places] = shift[self._bias_columns]

"""Blender: computes the blended weights, always from the pristine members, straight into an arena.

Members lie as rows of one (N, P) matrix, in the layout of the optimized graph, so that a change of alpha is one matrix-vector
product; with shares of their own for each of the bundle's weights, a batch of them (pieces.py). Folded BatchNorms follow: scale and
shift from the blended statistics, then each scaled row of the arena is multiplied in place. Statistics that were re-estimated
(recalibration.py) are blended by the shares of their knots instead of the members'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import BatchNormTable
from dni_deploy.blending.blend import blend_rows
from dni_deploy.errors import EngineError
from engines.interface import single_row_or_none
from engines.lowering.recipes import Recipes, compute_scale_and_shift, select_statistics_tensors
from engines.onnxruntime_cpu.channel_scale import make_channel_scales
from engines.onnxruntime_cpu.layout import Layout, allocate_aligned
from engines.onnxruntime_cpu.per_tensor_blend import PerTensorBlender


class Blender:
    """members: per member the bundle's weights by name, in its order; they are copied, and read-only from then on."""

    def __init__(
        self,
        layout: Layout,
        recipes: Recipes,
        members: Sequence[Mapping[str, NDArray[Any]]],
        recalibration: BatchNormTable | None = None,
    ) -> None:
        self.member_rows = allocate_aligned((len(members), layout.size))
        for row, tensors in zip(self.member_rows, members, strict=True):
            layout.arrange_weights({name: recipe.compute_value(tensors) for name, recipe in recipes.linear.items()}, row)
        self.member_rows.flags.writeable = False
        self._layout, self._recipes = layout, recipes
        self._tensor_index = {name: number for number, name in enumerate(members[0])}
        self._recalibration = recalibration
        known = {} if recalibration is None else recalibration.statistics
        # Of a BatchNorm that stayed in the graph: it reads the raw tensors.
        self._unfolded_statistics = [
            (recipe, *layout.find_positions(name, int(np.prod(recipe.shape))))
            for name, recipe in recipes.linear.items()
            if recipe.source in known
        ]
        if not recipes.folds:
            self._statistics = None
            return
        sets = select_statistics_tensors(recipes, members, recalibration)
        self._statistics = np.stack(
            [np.concatenate([fold.stack_statistics(tensors) for fold in recipes.folds], axis=1) for tensors in sets]
        )
        self._channel_scales = make_channel_scales(recipes, layout)
        sizes = [recipes.linear[fold.bias].shape[0] for fold in recipes.folds]
        columns = np.cumsum([0, *sizes])
        places = [layout.find_positions(fold.bias, size) for fold, size in zip(recipes.folds, sizes, strict=True)]
        self._bias_positions = np.concatenate([where for where, _ in places])
        self._bias_columns = np.concatenate([channel + column for (_, channel), column in zip(places, columns, strict=False)])
        self._fold_of_column = np.repeat(np.arange(len(sizes)), sizes)

    def blend(self, coefficients: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Write the blend into `out`, float32 (P,): shares float64 (N,) or (W, N), as Engine.refit takes them.

        The same shares always give the same bytes. Raises EngineError where a blended variance is not positive, which only
        extrapolation can bring about.
        """
        row = single_row_or_none(coefficients)
        of_sets = coefficients if row is None else row
        if self._recalibration is not None:
            of_sets = self._recalibration.interpolation_weights(coefficients)
        if row is not None:
            blend_rows(self.member_rows, row, out)
        else:
            pieces, sources = self._blocks
            pieces.blend(self.member_rows, coefficients[sources], out)
        if self._recalibration is not None and self._unfolded_statistics:
            known = self._recalibration.interpolate(coefficients)
            for recipe, places, element in self._unfolded_statistics:
                out[places] = recipe.compute_value(known).reshape(-1)[element]
        if self._statistics is None:
            return
        scale, shift = compute_scale_and_shift(self._blend_statistics(of_sets))
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise EngineError("A BatchNorm's blended variance is not positive at this alpha.")
        narrow = scale.astype(np.float32)
        for weights in self._channel_scales:
            weights.multiply(narrow, out)
        out[self._bias_positions] = shift[self._bias_columns]

    def _blend_statistics(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 (5, C), as compute_scale_and_shift takes them. shares: (N,), (W, N), or (K,) of the knots of re-estimated statistics."""
        assert self._statistics is not None
        if coefficients.ndim == 1:
            used = np.flatnonzero(coefficients)
            blended: NDArray[np.float64] = np.tensordot(coefficients[used], self._statistics[used], 1)
            return blended
        blended = np.zeros(self._statistics.shape[1:])
        for member, statistics in zip(coefficients.T, self._statistics, strict=True):
            along = member[self._fold_sources][:, self._fold_of_column]
            if along.all():
                blended += along * statistics
            else:
                blended += np.multiply(along, statistics, out=np.zeros_like(blended), where=along != 0)
        return blended

    @cached_property
    def _blocks(self) -> tuple[PerTensorBlender, NDArray[np.intp]]:
        """The arena cut by the weights that it is made of, and which of the bundle's weights each piece is made of."""
        starts, names = self._layout.split_blocks()
        linear = [self._recipes.linear[name] for name in names]
        # What has no source is the same for every member, so that any row will do.
        sources = [0 if recipe.source is None else self._tensor_index[recipe.source] for recipe in linear]
        return PerTensorBlender(starts, self._layout.size), np.array(sources, np.intp)

    @cached_property
    def _fold_sources(self) -> NDArray[np.intp]:
        """Which of the bundle's weights each row of each fold's statistics comes from: (5, folds), in the order of `statistics`."""
        names = [(fold.variance, fold.gamma, fold.beta, fold.mean, fold.convolution_bias) for fold in self._recipes.folds]
        sources: NDArray[np.intp] = np.array(
            [[0 if name is None else self._tensor_index[name] for name in row] for row in names], np.intp
        ).T
        return sources

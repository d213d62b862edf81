"""The blend of the in-place engine: always from the original members, straight into a weight buffer.

Members lie as rows of one (N, P) matrix, in the layout of the optimized graph, so that a change of alpha is one matrix-vector
product; with coefficients of their own for each of the bundle's weights, a batch of them (per_tensor_blend.py). Folded
BatchNorms follow: scale and shift from the blended statistics, then each scaled row of the buffer is multiplied in place. The
statistics of a calibration (blending/calibration_table.py) are blended by the weights of its calibration points instead of the
members' coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_rows
from dni_deploy.blending.calibration_table import CalibrationTable
from dni_deploy.errors import EngineError
from engines.interface import single_row_or_none
from engines.lowering.recipes import Recipes, compute_scale_and_shift, select_statistics_tensors
from engines.onnxruntime_cpu.channel_scale import make_channel_scales
from engines.onnxruntime_cpu.layout import Layout, allocate_aligned
from engines.onnxruntime_cpu.per_tensor_blend import PerTensorBlender


class Blender:
    """Blends members into weight buffers of one layout.

    Attributes:
        member_rows: float32 (N, P), the members' weights in the layout; read-only.

    Thread safety: `blend` may be called from any thread, into different buffers at once.
    """

    def __init__(
        self,
        layout: Layout,
        recipes: Recipes,
        members: Sequence[Mapping[str, NDArray[Any]]],
        calibration: CalibrationTable | None = None,
    ) -> None:
        """Copies the members' weights in the layout.

        Args:
            layout: The layout of the lowered graph that `recipes` belong to.
            recipes: How each lowered weight is made.
            members: Each member's weights by name, in the bundle's order.
            calibration: The calibration table, or None.
        """
        self.member_rows = allocate_aligned((len(members), layout.size))
        for row, tensors in zip(self.member_rows, members, strict=True):
            layout.arrange_weights({name: recipe.compute_value(tensors) for name, recipe in recipes.linear.items()}, row)
        self.member_rows.flags.writeable = False
        self._recipes = recipes
        self._tensor_index = {name: index for index, name in enumerate(members[0])}
        # Instead of the layout, whose map is as large as a member.
        self._block_starts, self._block_weights = layout.split_blocks()
        self._table = calibration
        estimated = {} if calibration is None else calibration.statistics
        # Of a BatchNorm that stayed in the graph: it reads the raw tensors.
        self._unfolded_statistics = [
            (recipe, *layout.find_positions(name, int(np.prod(recipe.shape))))
            for name, recipe in recipes.linear.items()
            if recipe.source in estimated
        ]
        if not recipes.folds:
            self._statistics = None
            return
        points = select_statistics_tensors(recipes, members, calibration)
        self._statistics = np.stack(
            [np.concatenate([fold.stack_statistics(tensors) for fold in recipes.folds], axis=1) for tensors in points]
        )
        self._channel_scales = make_channel_scales(recipes, layout)
        sizes = [recipes.linear[fold.bias].shape[0] for fold in recipes.folds]
        first_columns = np.cumsum([0, *sizes[:-1]])
        places = [layout.find_positions(fold.bias, size) for fold, size in zip(recipes.folds, sizes, strict=True)]
        self._bias_positions = np.concatenate([positions for positions, _ in places])
        self._bias_columns = np.concatenate(
            [channel + first for (_, channel), first in zip(places, first_columns, strict=True)]
        )
        self._fold_of_column = np.repeat(np.arange(len(sizes)), sizes)

    def blend(self, coefficients: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Blends all members into a weight buffer. The same coefficients always give the same bytes.

        Args:
            coefficients: float64 (N,) or (W, N), as `Engine.refit` takes them.
            out: float32 (P,), the buffer to fill, in layout order. The caller owns it.

        Raises:
            EngineError: A blended variance is not positive, which only extrapolation can bring about.
            CoefficientsError: The network is calibrated, and rows differ or coefficients lie outside of 0 to 1.

        Source: Eq. 2 of the DNI paper.
        """
        row = single_row_or_none(coefficients)
        statistics_coefficients = coefficients if row is None else row
        if self._table is not None:
            statistics_coefficients = self._table.interpolation_weights(coefficients)
        if row is not None:
            blend_rows(self.member_rows, row, out)
        else:
            blocks, sources = self._blocks
            blocks.blend(self.member_rows, coefficients[sources], out)
        if self._table is not None and self._unfolded_statistics:
            estimated = self._table.interpolate(coefficients)
            for recipe, positions, element in self._unfolded_statistics:
                out[positions] = recipe.compute_value(estimated).reshape(-1)[element]
        if self._statistics is None:
            return
        scale, shift = compute_scale_and_shift(self._blend_statistics(statistics_coefficients))
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise EngineError("A BatchNorm's blended variance is not positive at this alpha.")
        float32_scale = scale.astype(np.float32)
        for channel_scale in self._channel_scales:
            channel_scale.multiply(float32_scale, out)
        out[self._bias_positions] = shift[self._bias_columns]

    def _blend_statistics(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Blends by (N,), (W, N), or (K,) of a calibration: float64 (5, C) for `compute_scale_and_shift`."""
        assert self._statistics is not None
        if coefficients.ndim == 1:
            used = np.flatnonzero(coefficients)
            rows = self._statistics[used]
            return np.asarray(coefficients[used] @ rows.reshape(len(used), -1)).reshape(rows.shape[1:])
        blended = np.zeros(self._statistics.shape[1:])
        for member, statistics in zip(coefficients.T, self._statistics, strict=True):
            factors = member[self._fold_sources][:, self._fold_of_column]
            if factors.all():
                blended += factors * statistics
            else:
                blended += np.multiply(factors, statistics, out=np.zeros_like(blended), where=factors != 0)
        return blended

    @cached_property
    def _blocks(self) -> tuple[PerTensorBlender, NDArray[np.intp]]:
        """The buffer cut into the weights that it is made of, and which of the bundle's weights each block is made of."""
        linear = [self._recipes.linear[name] for name in self._block_weights]
        # A weight without a source is the same for every member, so that any row will do.
        sources = [0 if recipe.source is None else self._tensor_index[recipe.source] for recipe in linear]
        return PerTensorBlender(self._block_starts, self.member_rows.shape[1]), np.array(sources, np.intp)

    @cached_property
    def _fold_sources(self) -> NDArray[np.intp]:
        """Which of the bundle's weights each row of each fold's statistics comes from: (5, folds)."""
        names = [(fold.variance, fold.gamma, fold.beta, fold.mean, fold.convolution_bias) for fold in self._recipes.folds]
        sources: NDArray[np.intp] = np.array(
            [[0 if name is None else self._tensor_index[name] for name in row] for row in names], np.intp
        ).T
        return sources

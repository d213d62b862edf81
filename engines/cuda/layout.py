"""The layout of a weight buffer: where each weight of a lowered graph is.

Weights that one kernel blends are side by side, in regions by what happens to them and by dtype; every weight begins on a
multiple of 128 numbers, which is at least 256 bytes. Behind the regions come the BatchNorms' scales, which only kernels read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, LimitError, escape_name
from engines.lowering.recipes import BatchNormFold, Recipes

if TYPE_CHECKING:
    from engines.lowering.gpu import LoweredGraph, LoweredWeight

WEIGHT_ALIGNMENT_FLOATS = 128
"""Numbers; as in blend.cu."""


@dataclass(frozen=True)
class Region:
    """Weights side by side.

    Attributes:
        kind: "linear" (blended), "fold" (blended, then times a BatchNorm's scale), "shift" (computed by a BatchNorm's fold) or
            "knots" (tensors of the calibration that the graph reads as they are, blended over the calibration points).
        dtype: Of the weights, float32 or float16.
        offset: First byte in the weight buffer.
        count: Numbers, padding included.
        starts: (name, first number) of each weight.
    """

    kind: str
    dtype: np.dtype[Any]
    offset: int
    count: int
    starts: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class DeviceLayout:
    """Where the weights are in a weight buffer.

    Attributes:
        names: Names of the weights, in the lowered graph's order.
        regions: The regions, by offset.
        weights: The lowered weights by name.
        offsets: First byte of each weight, by name.
        folds: The BatchNorms that are folded.
        sources: Per blended weight the family's tensor that it is made of, and whose coefficients it takes.
        channels: Channels of all folds.
        scale_offset: First byte of the channels' scales, float32.
        nbytes: Bytes of a whole weight buffer.
    """

    names: tuple[str, ...]
    regions: tuple[Region, ...]
    weights: dict[str, LoweredWeight]
    offsets: dict[str, int]
    folds: tuple[BatchNormFold, ...]
    sources: dict[str, str]
    channels: int
    scale_offset: int
    nbytes: int

    @classmethod
    def from_lowered(cls, lowered: LoweredGraph, calibrated_names: Collection[str] = ()) -> DeviceLayout:
        """Lays out the weights of a lowered graph.

        Args:
            lowered: The graph.
            calibrated_names: The tensors that the calibration table gives.

        Raises:
            EngineError: A fold does not fit its weights.
            LimitError: A weight is too large for the kernels.
        """
        weights = {weight.name: weight for weight in lowered.weights}
        folds = tuple(lowered.recipes.folds)
        kinds = _classify_weights(weights, folds)
        raw = {name for name, recipe in lowered.recipes.linear.items() if recipe.source in calibrated_names}
        kinds.update((name, "knots") for name, kind in kinds.items() if kind == "linear" and name in raw)
        regions: list[Region] = []
        offsets: dict[str, int] = {}
        position = 0
        for key in sorted({(kinds[weight.name], weight.dtype.itemsize, weight.dtype) for weight in lowered.weights}, key=str):
            kind, size, dtype = key
            starts, first = [], 0
            for weight in lowered.weights:
                if (kinds[weight.name], weight.dtype) == (kind, dtype):
                    if weight.count >= 2**31:
                        raise LimitError(
                            f"The weight {escape_name(weight.name)!r} has {weight.count} numbers; at most 2^31 - 1 can be."
                        )
                    starts.append((weight.name, first))
                    offsets[weight.name] = position + first * size
                    first += -(-weight.count // WEIGHT_ALIGNMENT_FLOATS) * WEIGHT_ALIGNMENT_FLOATS
            regions.append(Region(kind, dtype, position, first, tuple(starts)))
            position += first * size
        channels = sum(weights[fold.bias].count for fold in folds)
        return cls(
            tuple(weights),
            tuple(regions),
            weights,
            offsets,
            folds,
            _find_sources(lowered.recipes, kinds),
            channels,
            position,
            position + -(-channels * 4 // 256) * 256,
        )

    def offset_of(self, name: str) -> int:
        """Returns the weight's first byte in the weight buffer, a multiple of 256."""
        return self.offsets[name]

    def count_of(self, name: str) -> int:
        """Returns how many numbers the weight has."""
        return self.weights[name].count

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """Returns the weight's dtype."""
        return self.weights[name].dtype

    def build_channel_table(self, region: Region) -> NDArray[np.uint32]:
        """Builds the table of a "fold" region that the kernels find channels by.

        Returns:
            uint32 (count / 128, 4), for each 128 numbers: first scale, inner, channels, position in its weight. Number i of a
            weight belongs to the output channel (i / inner) % channels.
        """
        table = np.zeros((region.count // WEIGHT_ALIGNMENT_FLOATS, 4), np.uint32)
        firsts = dict(zip((fold.weight for fold in self.folds), self._first_channels(), strict=True))
        axes = {fold.weight: fold.axis for fold in self.folds}
        for name, start in region.starts:
            shape = self.weights[name].shape
            rows = table[
                start // WEIGHT_ALIGNMENT_FLOATS : (start + self.count_of(name) + WEIGHT_ALIGNMENT_FLOATS - 1)
                // WEIGHT_ALIGNMENT_FLOATS
            ]
            rows[:, :3] = firsts[name], prod(shape[axes[name] + 1 :]), shape[axes[name]]
            rows[:, 3] = np.arange(len(rows), dtype=np.uint32) * WEIGHT_ALIGNMENT_FLOATS
        return table

    def source_tensors(self) -> tuple[str, ...]:
        """Lists the tensors in `sources`, each once: a table of per-tensor coefficients has a row for each, in this order."""
        return tuple(dict.fromkeys(self.sources.values()))

    def build_row_index(self, region: Region) -> NDArray[np.uint32]:
        """Builds the index in `source_tensors` of each 128 numbers of a blended region: uint32 (count / 128,)."""
        indices = {name: index for index, name in enumerate(self.source_tensors())}
        table = np.zeros(region.count // WEIGHT_ALIGNMENT_FLOATS, np.uint32)
        for name, start in region.starts:
            table[
                start // WEIGHT_ALIGNMENT_FLOATS : (start + self.count_of(name) + WEIGHT_ALIGNMENT_FLOATS - 1)
                // WEIGHT_ALIGNMENT_FLOATS
            ] = indices[self.sources[name]]
        return table

    def statistics_tensors(self) -> tuple[str, ...]:
        """Lists the tensors that the BatchNorms are made of, each once: their table of coefficients has a row for each."""
        return tuple(dict.fromkeys(name for fold in self.folds for name in _fold_tensors(fold)))

    def build_statistics_index(self) -> NDArray[np.uint32]:
        """Builds the index in `statistics_tensors` of each channel's five statistics.

        Returns:
            uint32 (5, channels), in the order of `BatchNormFold.stack_statistics`.
        """
        indices = {name: index for index, name in enumerate(self.statistics_tensors())}
        rows = np.array([[indices[name] for name in _fold_tensors(fold)] for fold in self.folds], np.uint32).reshape(-1, 5)
        table: NDArray[np.uint32] = np.repeat(rows, [self.count_of(fold.bias) for fold in self.folds], axis=0).T
        return np.ascontiguousarray(table)

    def build_shift_offsets(self) -> NDArray[np.uint64]:
        """Builds where each channel's shift goes: uint64 (channels,), byte offset * 2, plus 1 for a float16."""
        offsets = [
            ((self.offset_of(fold.bias) + np.arange(self.count_of(fold.bias)) * size) * 2 + (size == 2)).astype(np.uint64)
            for fold in self.folds
            for size in (self.dtype_of(fold.bias).itemsize,)
        ]
        return np.concatenate(offsets) if offsets else np.zeros(0, np.uint64)

    def _first_channels(self) -> list[int]:
        counts = [self.count_of(fold.bias) for fold in self.folds]
        return [sum(counts[:index]) for index in range(len(counts))]


def _find_sources(recipes: Recipes, kinds: dict[str, str]) -> dict[str, str]:
    """Finds the tensor that each blended weight takes its coefficients from.

    A weight that is made of no tensor is a number, the same in every member: a BatchNorm's scale before it is folded. It takes
    the coefficients of the mean.
    """
    means = {fold.weight: fold.mean for fold in recipes.folds}
    sources = {name: recipes.linear[name].source or means.get(name) for name, kind in kinds.items() if kind != "shift"}
    default = next((source for source in sources.values() if source), "")
    return {name: source or default for name, source in sources.items()}


def _fold_tensors(fold: BatchNormFold) -> tuple[str, ...]:
    """Lists the tensors of `BatchNormFold.stack_statistics`; the mean stands for one that the layer lacks."""
    named = (fold.variance, fold.gamma, fold.beta, fold.mean, fold.convolution_bias)
    return tuple(fold.mean if name is None else name for name in named)


def _classify_weights(weights: dict[str, LoweredWeight], folds: tuple[BatchNormFold, ...]) -> dict[str, str]:
    kinds = dict.fromkeys(weights, "linear")
    for fold in folds:
        for name, kind in ((fold.weight, "fold"), (fold.bias, "shift")):
            if kinds.get(name) != "linear":
                raise EngineError(
                    f"A BatchNorm is to be folded into {escape_name(name)!r}, which is no weight of the graph or folded twice."
                )
            kinds[name] = kind
        shape = weights[fold.weight].shape
        if fold.axis >= len(shape) or shape[fold.axis] != weights[fold.bias].count:
            raise EngineError(f"The channels of {escape_name(fold.weight)!r}, {shape}, are not those of its BatchNorm.")
    return kinds

"""How alike two members' filters are (the correlation index, Eq. 3 of the paper), and how far their statistics moved."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_BLENDING_INDEX = 0.689
"""Families that blend well had an index in [0.689, 1) in the paper."""

MAX_UNRELATED_INDEX = 0.1
"""Families that could not be blended were below this."""

REPORTED_PERCENTILES = (5, 25, 50, 75, 95)
"""Of the filters of a layer."""

_Tensors = Mapping[str, NDArray[Any]]


def correlate_filters(a: NDArray[Any], b: NDArray[Any], *, filter_axis: int = 0) -> NDArray[np.float64]:
    """Computes Pearson's correlation of each filter of `a` with the same filter of `b`.

    Args:
        a: Weights of one layer, at least 2 axes: convolution (out, in, kH, kW), linear (out, in).
        b: Weights of the same shape.
        filter_axis: The axis of the output channels: 0, and 1 for a transposed convolution, (in, out, kH, kW).

    Returns:
        float64 (filters,). NaN for a filter that is constant in either (nothing varies, so nothing correlates): callers leave
        those out and count them.

    Source: Eq. 3. As printed, its denominator holds the square roots of the filters' norms, which would change with
    their scale; its text says "similar to the Pearson correlation" and its values lie in [-1, 1], so the norms themselves are
    used.
    """
    rows_a, rows_b = (_center_rows(_to_rows(weight, filter_axis)) for weight in (a, b))
    product = np.einsum("ij,ij->i", rows_a, rows_b)
    norm = _row_norms(rows_a) * _row_norms(rows_b)
    index = np.full(product.shape, np.nan)
    np.divide(product, norm, out=index, where=norm > 0)
    return np.clip(index, -1.0, 1.0)


def _to_rows(weight: NDArray[Any], filter_axis: int) -> NDArray[np.float64]:
    rows = np.moveaxis(weight, filter_axis, 0).astype(np.float64)
    return rows.reshape(rows.shape[0], -1)


def _row_norms(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return norms


def _center_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtracts the mean, and divides by the peak so that squares neither overflow nor vanish.

    Rounding noise of a constant row becomes zero.
    """
    if not rows.size:
        return rows
    peak = np.abs(rows).max(axis=1, initial=0.0, keepdims=True)
    scaled = np.divide(rows, peak, out=np.zeros_like(rows), where=peak > 0)
    centered = scaled - scaled.mean(axis=1, keepdims=True)
    is_constant = np.abs(centered).max(axis=1, initial=0.0, keepdims=True) <= 8 * np.finfo(np.float64).eps
    return np.where(is_constant, 0.0, centered)


@dataclass(frozen=True)
class LayerCorrelation:
    """The correlation index of one layer's filters between two members.

    Attributes:
        pair: "first - second".
        layer: Name of the weight.
        shape: Its shape.
        filters: Number of filters.
        constant: Number of filters left out, because all their numbers are equal in one of the members.
        quantiles: 5, 25, 50, 75 and 95 % of the filters lie below; empty where no filter has an index.
        flipped: Number of filters whose index is below -0.689: the same filter with the other sign.
        scale: Norm of the second member's filter over that of the first's, median; 1 where nothing can be said.
        aligned_median: The median after the best reordering of channels (permutation.py); None where none was looked for.
        chance: What such a reordering gives by chance, with the second member's filters shuffled inside.
    """

    pair: str
    layer: str
    shape: tuple[int, ...]
    filters: int
    constant: int
    quantiles: tuple[float, ...]
    flipped: int = 0
    scale: float = 1.0
    aligned_median: float | None = None
    chance: float | None = None

    @property
    def median(self) -> float | None:
        """The median index; None where no filter has one."""
        return self.quantiles[2] if self.quantiles else None

    @property
    def has_low_median(self) -> bool:
        """Whether the median is below what families that blend have."""
        return self.median is not None and self.median < MIN_BLENDING_INDEX

    @property
    def is_reordered(self) -> bool:
        """Whether the filters are those of the other member in another order, which chance does not explain."""
        if self.aligned_median is None or self.chance is None or self.median is None:
            return False
        return self.median < MIN_BLENDING_INDEX <= self.aligned_median and self.aligned_median > (1 + self.chance) / 2


@dataclass(frozen=True)
class BatchNormDifference:
    """How far the statistics of one BatchNorm moved between two members.

    Attributes:
        pair: "first - second".
        layer: Name of the BatchNorm.
        mean: Root mean square of the difference of running_mean, in standard deviations of the channel.
        variance: Median over the channels of the larger running_var over the smaller; 1 where nothing moved.
    """

    pair: str
    layer: str
    mean: float
    variance: float


def find_filter_layers(tensors: _Tensors, transposed: Collection[str] | None = None) -> dict[str, int]:
    """Finds the convolution and linear weights.

    Args:
        tensors: A member's state dict.
        transposed: Names of the transposed convolutions' weights, (in, out, kH, kW), where they are known. Otherwise they are
            recognized by the tensor that follows: a bias or norm with as many numbers as the second axis, and not the first.

    Returns:
        The axis of the filters by name, in natural order.
    """
    names = [key for key, array in tensors.items() if array.dtype.kind == "f" and _is_filter(array.shape)]
    if transposed is None:
        transposed = {name for name in names if _looks_transposed(name, tensors[name].shape, tensors)}
    return {name: int(name in transposed) for name in sorted(names, key=_natural_sort_key)}


def measure_layer_correlations(
    pair: str, first: _Tensors, second: _Tensors, layers: Mapping[str, int]
) -> tuple[list[LayerCorrelation], list[float]]:
    """Measures the correlation index of each layer.

    Args:
        pair: The pair's name.
        first: The first member's tensors.
        second: The second member's tensors.
        layers: Axis of the filters by name.

    Returns:
        A row for each layer, and the index of every filter of all layers in one list.
    """
    rows, every_index = [], []
    for name, axis in layers.items():
        index = correlate_filters(first[name], second[name], filter_axis=axis)
        finite = index[np.isfinite(index)]
        rows.append(
            LayerCorrelation(
                pair,
                name,
                first[name].shape,
                index.size,
                index.size - finite.size,
                tuple(float(value) for value in np.percentile(finite, REPORTED_PERCENTILES)) if finite.size else (),
                int(np.count_nonzero(finite < -MIN_BLENDING_INDEX)),
                _measure_scale_ratio(first[name], second[name], axis),
            )
        )
        every_index += finite.tolist()
    return rows, every_index


def _measure_scale_ratio(first: NDArray[Any], second: NDArray[Any], axis: int) -> float:
    one, other = (_row_norms(_to_rows(weight, axis)) for weight in (first, second))
    both = (one > 0) & (other > 0)
    return float(np.median(other[both] / one[both])) if both.any() else 1.0


def measure_batchnorm_differences(pair: str, first: _Tensors, second: _Tensors) -> list[BatchNormDifference]:
    """Compares the statistics of each BatchNorm, recognized by its running_mean and running_var.

    Args:
        pair: The pair's name.
        first: The first member's tensors.
        second: The second member's tensors.

    Returns:
        A row for each BatchNorm, in natural order.
    """
    rows = []
    for name in sorted(first, key=_natural_sort_key):
        layer, _, last = name.rpartition(".")
        variance_name = f"{name.removesuffix('running_mean')}running_var"
        if last != "running_mean" or variance_name not in first:
            continue
        means = (first[name].astype(np.float64), second[name].astype(np.float64))
        variances = [np.maximum(side[variance_name].astype(np.float64), 1e-12) for side in (first, second)]
        shift = (means[0] - means[1]) / np.sqrt((variances[0] + variances[1]) / 2)
        ratio = np.maximum(variances[0], variances[1]) / np.minimum(variances[0], variances[1])
        rows.append(BatchNormDifference(pair, layer, float(np.sqrt(np.mean(shift**2))), float(np.median(ratio))))
    return rows


def _is_filter(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and int(np.prod(shape[1:])) >= 3 and shape[0] > 0  # a line through two points always correlates


def _looks_transposed(name: str, shape: tuple[int, ...], tensors: _Tensors) -> bool:
    if len(shape) != 4 or shape[0] == shape[1]:
        return False
    bias = tensors.get(f"{name.removesuffix('weight')}bias")
    if bias is not None:
        return bias.shape == (shape[1],)
    ordered = sorted(tensors, key=_natural_sort_key)
    following = (tensors[key].shape for key in ordered[ordered.index(name) + 1 :] if tensors[key].ndim)
    return next(following, ()) == (shape[1],)


def _natural_sort_key(name: str) -> list[tuple[int, str]]:
    """Sorts body.2 before body.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]{1,9})", name)]

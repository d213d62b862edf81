"""Correlation index: how alike two members' filters are (Eq. 3 of the DNI paper)."""

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


def correlate_filters(a: NDArray[Any], b: NDArray[Any], *, filter_axis: int = 0) -> NDArray[np.float64]:
    """Pearson's correlation of each filter of `a` with the same filter of `b`, float64 (filters,).

    a, b         weights of one layer, same shape, at least 2 axes: convolution (out, in, kH, kW), linear (out, in).
    filter_axis  where the output channels are: 0, and 1 for a transposed convolution, (in, out, kH, kW).

    NaN for a filter that is constant in either (nothing varies, so nothing correlates): callers leave those out and count them.

    Source: Eq. 3. As printed, its denominator holds the square roots of the filters' norms, which would change with
    their scale; its text says "similar to the Pearson correlation" and its values lie in [-1, 1], so the norms themselves are used.
    """
    rows_a, rows_b = (np.moveaxis(weight, filter_axis, 0).astype(np.float64) for weight in (a, b))
    rows_a, rows_b = rows_a.reshape(rows_a.shape[0], -1), rows_b.reshape(rows_b.shape[0], -1)
    peak_a, peak_b = (np.abs(rows).max(axis=1, initial=0.0, keepdims=True) for rows in (rows_a, rows_b))
    centred_a, centred_b = _center_rows(rows_a, peak_a), _center_rows(rows_b, peak_b)
    product = np.einsum("ij,ij->i", centred_a, centred_b)
    norm = np.sqrt(np.einsum("ij,ij->i", centred_a, centred_a)) * np.sqrt(np.einsum("ij,ij->i", centred_b, centred_b))
    index = np.full(product.shape, np.nan)
    np.divide(product, norm, out=index, where=norm > 0)
    return np.clip(index, -1.0, 1.0)


def _center_rows(rows: NDArray[np.float64], peak: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus the mean, over the peak (so that squares neither overflow nor vanish); rounding noise of a constant row is zero."""
    if not rows.size:
        return rows
    scaled = np.divide(rows, peak, out=np.zeros_like(rows), where=peak > 0)
    centred = scaled - scaled.mean(axis=1, keepdims=True)
    noise = np.abs(centred).max(axis=1, initial=0.0, keepdims=True) <= 8 * np.finfo(np.float64).eps
    return np.where(noise, 0.0, centred)


REPORTED_PERCENTILES = (5, 25, 50, 75, 95)

_Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LayerCorrelation:
    """The correlation index of one layer's filters between two members.

    pair       "first - second".
    quantiles  5, 25, 50, 75 and 95 % of the filters lie below; empty where no filter has an index.
    constant   filters left out, because all their numbers are equal in one of the members.
    flipped    filters whose index is below -0.689: the same filter with the other sign.
    scale      norm of the second member's filter over that of the first's, median; 1 where nothing can be said.
    matched    the median after the best reordering of channels (dni_deploy/compatibility/permutation.py); None: not looked for.
    chance     what such a reordering gives by luck, with the second member's filters shuffled inside.
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
    def has_low_median(self) -> bool:
        """Whether the median is below what families that blend have."""
        return self.median is not None and self.median < MIN_BLENDING_INDEX

    @property
    def is_reordered(self) -> bool:
        """Whether the filters are those of the other member in another order, which luck does not explain."""
        if self.aligned_median is None or self.chance is None or self.median is None:
            return False
        return self.median < MIN_BLENDING_INDEX <= self.aligned_median and self.aligned_median > (1 + self.chance) / 2

    @property
    def median(self) -> float | None:
        return self.quantiles[2] if self.quantiles else None


@dataclass(frozen=True)
class BatchNormDifference:
    """How far the statistics of one BatchNorm moved between two members.

    mean      root mean square of the difference of running_mean, in standard deviations of the channel.
    variance  median over the channels of the larger running_var over the smaller; 1 where nothing moved.
    """

    pair: str
    layer: str
    mean: float
    variance: float


def find_filter_layers(tensors: _Tensors, transposed: Collection[str] | None = None) -> dict[str, int]:
    """The convolution and linear weights by name, in natural order, with the axis of their filters.

    transposed  names of the transposed convolutions' weights, (in, out, kH, kW), where somebody knows. Otherwise they are told by
                the tensor that follows: a bias or norm with as many numbers as the second axis, and not the first.
    """
    names = [key for key, array in tensors.items() if array.dtype.kind == "f" and _is_filter(array.shape)]
    axes = {}
    for name in sorted(names, key=_natural_sort_key):
        inside = name in transposed if transposed is not None else _looks_transposed(name, tensors[name].shape, tensors)
        axes[name] = int(inside)
    return axes


def measure_layer_correlations(
    pair: str, first: _Tensors, second: _Tensors, layers: Mapping[str, int]
) -> tuple[list[LayerCorrelation], list[float]]:
    """One LayerCorrelation for each layer, and the index of every filter of all of them in one list."""
    rows, everything = [], []
    for name, axis in layers.items():
        index = correlate_filters(first[name], second[name], filter_axis=axis)
        found = index[np.isfinite(index)]
        quantiles = tuple(float(value) for value in np.percentile(found, REPORTED_PERCENTILES)) if found.size else ()
        flipped = int(np.count_nonzero(found < -MIN_BLENDING_INDEX))
        scale = _measure_scale_ratio(first[name], second[name], axis)
        rows.append(
            LayerCorrelation(pair, name, first[name].shape, index.size, index.size - found.size, quantiles, flipped, scale)
        )
        everything += found.tolist()
    return rows, everything


def _measure_scale_ratio(first: NDArray[Any], second: NDArray[Any], axis: int) -> float:
    rows = [np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64) for weight in (first, second)]
    one, other = (np.sqrt(np.einsum("ij,ij->i", values, values)) for values in rows)
    both = (one > 0) & (other > 0)
    return float(np.median(other[both] / one[both])) if both.any() else 1.0


def measure_batchnorm_differences(pair: str, first: _Tensors, second: _Tensors) -> list[BatchNormDifference]:
    """One Drift for each BatchNorm, told by its running_mean and running_var."""
    rows = []
    for name in sorted(first, key=_natural_sort_key):
        prefix, _, last = name.rpartition("running_mean")
        partner = f"{prefix}running_var"
        if last or not name.endswith("running_mean") or partner not in first:
            continue
        means = (first[name].astype(np.float64), second[name].astype(np.float64))
        variances = [np.maximum(side[partner].astype(np.float64), 1e-12) for side in (first, second)]
        moved = (means[0] - means[1]) / np.sqrt((variances[0] + variances[1]) / 2)
        ratio = np.maximum(variances[0], variances[1]) / np.minimum(variances[0], variances[1])
        rows.append(BatchNormDifference(pair, prefix.rstrip("."), float(np.sqrt(np.mean(moved**2))), float(np.median(ratio))))
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
    after = (tensors[key].shape for key in ordered[ordered.index(name) + 1 :] if tensors[key].ndim)
    return next(after, ()) == (shape[1],)


def _natural_sort_key(name: str) -> list[tuple[int, str]]:
    """body.2 before body.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]{1,9})", name)]

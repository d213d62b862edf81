"""Correlation index: how alike two members' filters are (Eq. 3 of the DNI paper)."""

from __future__ import annotations

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

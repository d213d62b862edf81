"""Relative error and PSNR of two arrays, with one rule for shapes that differ and for values that are not finite.

An array that cannot be compared is infinitely wrong: `relative_error` is then inf and `psnr_db` -inf, so that no tolerance
accepts it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_PEAK = 1e-30
"""The largest expected value counts as at least this much, so that an expected output of zeros divides nothing by zero."""


def relative_error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Computes the largest absolute difference over the largest absolute expected value.

    Args:
        got: Any real dtype, any shape but an empty one.
        expected: The reference, of the same shape.

    Returns:
        The error, computed in float64, 0 for equal arrays; inf where the shapes differ or a value is not finite.
    """
    if not _are_comparable(got, expected):
        return math.inf
    difference = np.subtract(got, expected, dtype=np.float64)
    return float(np.abs(difference, out=difference).max()) / _peak_of(expected)


def psnr_db(got: NDArray[Any], expected: NDArray[Any], peak: float | None = None) -> float:
    """Computes the peak signal-to-noise ratio in dB.

    Args:
        got: Any real dtype, any shape but an empty one.
        expected: The reference, of the same shape.
        peak: The largest value that is possible, 255 for 8 bits; None for the largest absolute expected value.

    Returns:
        The ratio, computed in float64; inf for equal arrays, -inf where the shapes differ or a value is not finite.
    """
    if not _are_comparable(got, expected):
        return -math.inf
    difference = np.subtract(got, expected, dtype=np.float64)
    mean_squared_error = float(np.mean(np.square(difference, out=difference)))
    return mse_to_psnr_db(mean_squared_error, _peak_of(expected) if peak is None else peak)


def mse_to_psnr_db(mean_squared_error: float, peak: float) -> float:
    """Converts a mean squared error, 0 or positive and in squared units of the peak, to a PSNR in dB; inf for 0."""
    return math.inf if mean_squared_error == 0 else 10 * math.log10(peak**2 / mean_squared_error)


def _are_comparable(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    return got.shape == expected.shape and bool(np.isfinite(got).all() and np.isfinite(expected).all())


def _peak_of(expected: NDArray[Any]) -> float:
    return max(float(expected.max()), -float(expected.min()), MIN_PEAK)

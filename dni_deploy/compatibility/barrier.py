"""Barrier: the error halfway between two members against the error at both ends, where the right picture is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_BARRIER_DB = 0.5
"""Decibels above the mean error of the ends from which a barrier is worth a word; less is not seen."""
BLOCKING_BARRIER_DB = 10 * math.log10(2)
"""3 dB, twice the error: where the middle is that much worse than *both* ends, the way between them is blocked."""


@dataclass(frozen=True)
class Barrier:
    """Mean squared errors against the reference, in parts of the squared value range.

    probe     the picture, and what was done to it.
    barrier   middle - (first + second) / 2: the loss barrier of linear mode connectivity (Frankle et al., ICML 2020), at alpha 0.5;
              negative where the blend is better than the ends are on average.
    decibels  the same as a ratio, 10 log10(middle / mean of the ends); positive is worse.
    """

    pair: str
    test_image: str
    first: float
    middle: float
    second: float

    @property
    def barrier(self) -> float:
        return self.middle - (self.first + self.second) / 2

    @property
    def decibels(self) -> float:
        return _error_ratio_db(self.middle, (self.first + self.second) / 2)

    @property
    def beyond(self) -> float:
        """Decibels above the worse end; negative where the middle is better than that."""
        return _error_ratio_db(self.middle, max(self.first, self.second))

    @property
    def is_barrier(self) -> bool:
        return self.decibels > MIN_BARRIER_DB

    @property
    def is_blocking(self) -> bool:
        return self.beyond > BLOCKING_BARRIER_DB


def measure_barrier(
    pair: str,
    test_image: str,
    outputs: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    reference: NDArray[np.float32],
    low: float,
    high: float,
) -> Barrier:
    """Compare the outputs (first, middle, second) with a reference of their shape; values are cut to low..high, as a picture's are."""
    first, middle, second = (_mean_squared_error(output, reference, low, high) for output in outputs)
    return Barrier(pair, test_image, first, middle, second)


def _mean_squared_error(output: NDArray[np.float32], reference: NDArray[np.float32], low: float, high: float) -> float:
    seen = np.clip(np.nan_to_num(output.astype(np.float64), nan=low), low, high)
    return float(np.mean(np.square((seen - reference) / (high - low))))


def _error_ratio_db(error: float, other: float) -> float:
    tiny = (1 / 255 / 16) ** 2  # far below what 8 bits can hold: equal pictures have no ratio
    return 10 * math.log10(max(error, tiny) / max(other, tiny))

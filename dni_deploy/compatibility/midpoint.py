"""Midpoint: what the network makes of one picture halfway between two members."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLLAPSE_ERROR = 0.5
"""Error against the mean of the ends, in standard deviations of that picture, from which it is another picture; that alone is no
fault: half of one style and half of another is neither's."""

LOST_DEPARTURE = 2.0
"""Error in half distances of the ends, from which the middle is farther from their mean than they are from each other."""

CONTRAST_RANGE = (0.5, 2.0)
"""Contrast, in parts of the ends', outside of which the picture has faded or burst."""

OUTSIDE_DEPARTURE = 1.0
"""Error in half distances of the ends: from 1 on, the middle lies outside of what is between them."""


@dataclass(frozen=True)
class Midpoint:
    """The output at alpha 0.5 against the mean of the outputs at both ends.

    error       root mean square of the difference, in standard deviations of the mean of the ends.
    departure   the same difference, in half distances between the ends; below 1 the middle is nearer to their mean than they are.
    brightness  mean of the middle minus mean of the ends, in parts of the value range.
    contrast    standard deviation of the middle over that of the ends.
    finite      whether every number is.
    probe       the picture.
    """

    pair: str
    error: float
    departure: float
    brightness: float
    contrast: float
    finite: bool
    test_image: str = ""

    @property
    def is_collapsed(self) -> bool:
        faded = not CONTRAST_RANGE[0] <= self.contrast <= CONTRAST_RANGE[1]
        return not self.finite or faded or (self.error > COLLAPSE_ERROR and self.departure > LOST_DEPARTURE)

    @property
    def is_outside_ends(self) -> bool:
        """Outside of what lies between the ends, by more than an eye would miss."""
        return self.departure > OUTSIDE_DEPARTURE and self.error > 0.02


def measure_midpoint(
    pair: str,
    first: NDArray[np.float32],
    middle: NDArray[np.float32],
    second: NDArray[np.float32],
    span: float = 1.0,
    test_image: str = "",
) -> Midpoint:
    """Compare three outputs of one shape, in float64. span: the value range, high - low."""
    if not all(np.isfinite(output).all() for output in (first, middle, second)):
        return Midpoint(pair, float("inf"), float("inf"), 0.0, 0.0, False, test_image)
    one, half, other = (output.astype(np.float64) for output in (first, middle, second))
    mean = (one + other) / 2
    tiny = 1e-6 * span  # float32 noise; outputs that equal each other to it have no distance to compare with
    error, distance = (float(np.sqrt(np.mean(part**2))) for part in (half - mean, (one - other) / 2))
    spread = float((one.std() + other.std()) / 2)
    return Midpoint(
        pair,
        error=error / max(float(mean.std()), tiny) if error > tiny else 0.0,
        departure=error / max(distance, tiny) if error > tiny else 0.0,
        brightness=float(half.mean() - mean.mean()) / span,
        contrast=float(half.std()) / spread if spread > tiny else 1.0,
        finite=True,
        test_image=test_image,
    )


def average_midpoints(midpoints: Sequence[Midpoint]) -> Midpoint:
    """Several probes of one pair as one: the means of their figures."""
    if len(midpoints) == 1:
        return midpoints[0]
    error, departure, brightness, contrast = (
        float(np.mean([getattr(row, name) for row in midpoints])) for name in ("error", "departure", "brightness", "contrast")
    )
    finite = all(row.finite for row in midpoints)
    return Midpoint(midpoints[0].pair, error, departure, brightness, contrast, finite, f"{len(midpoints)} probes")


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


VARIANCE_EPSILON = 1e-5
"""Added to every variance, as BatchNorm does: channels that are dead in a member say nothing."""

MAX_VARIANCE_RATIO = 2.0
"""A ratio of variances, or its inverse, from which on a layer is counted as drifted; and a shift of half a standard deviation."""

MAX_MEAN_SHIFT_SIGMA = 0.5

NormInputStatistics = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""By layer: mean and variance over the pictures and places of what goes into the BatchNorm, float64 (C,) each."""

_Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class BatchNormMismatch:
    """One BatchNorm halfway.

    variance  measured variance over the blend's running_var, median over the channels, divided by the same figure at the ends
              (their geometric mean), so that what is only due to the probe's pictures cancels; below 1 the activations have shrunk.
    mean      root mean square over the channels of measured mean minus the blend's running_mean, in its standard deviations, beyond
              what it is at the ends.
    """

    pair: str
    layer: str
    variance: float
    mean: float

    @property
    def has_drifted(self) -> bool:
        return not 1 / MAX_VARIANCE_RATIO < self.variance < MAX_VARIANCE_RATIO or self.mean > MAX_MEAN_SHIFT_SIGMA


def measure_batchnorm_mismatches(
    pair: str,
    tensors: tuple[_Tensors, _Tensors, _Tensors],
    measured: tuple[NormInputStatistics, NormInputStatistics, NormInputStatistics],
) -> list[BatchNormMismatch]:
    """One BatchNormMismatch for each BatchNorm that was measured, in the order of the middle's.

    tensors   what the network computes with at the first member, halfway and at the second: halfway the statistics are those that are
              blended, or re-estimated.
    measured  the statistics that it has there on the pictures.
    """
    rows = []
    for layer in measured[1]:
        if f"{layer}.running_var".lstrip(".") not in tensors[1]:  # a network that names its modules otherwise than its file
            continue
        first, middle, second = (
            _compare_statistics(there[layer], _running_statistics(own, layer))
            for there, own in zip(measured, tensors, strict=True)
        )
        usual = float(np.sqrt(first[0] * second[0]))
        rows.append(BatchNormMismatch(pair, layer, middle[0] / usual, max(middle[1] - max(first[1], second[1]), 0.0)))
    return rows


def _running_statistics(tensors: _Tensors, layer: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    prefix = f"{layer}." if layer else ""
    mean, variance = (tensors[f"{prefix}{name}"].astype(np.float64) for name in ("running_mean", "running_var"))
    return mean, variance


def _compare_statistics(
    measured: tuple[NDArray[np.float64], NDArray[np.float64]], running: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> tuple[float, float]:
    """Median ratio of the variances, and the shift of the means."""
    spread = np.maximum(running[1], 0) + VARIANCE_EPSILON
    ratio = (measured[1] + VARIANCE_EPSILON) / spread
    shift = (measured[0] - running[0]) / np.sqrt(spread)
    return float(np.median(ratio)), float(np.sqrt(np.mean(shift**2)))

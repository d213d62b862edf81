"""Norm drift: BatchNorm's statistics halfway between two members against those that the blended network has.

BatchNorm divides by a standard deviation that was measured in training. A blend blends the measurements, but the blended
convolutions before it give other activations than either member's, mostly smaller ones, because filters that differ cancel in part.
What then comes out is flatter than both members', layer after layer: the picture is dark or grey. Recalibrated statistics undo it.
Source: Jordan et al., REPAIR, ICLR 2023, which calls it variance collapse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

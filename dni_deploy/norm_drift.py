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

EPSILON = 1e-5
"""Added to every variance, as BatchNorm does: channels that are dead in a member say nothing."""
DRIFTED = 2.0
"""A ratio of variances, or its inverse, from which on a layer is counted as drifted; and a shift of half a standard deviation."""
SHIFTED = 0.5

Measured = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""By layer: mean and variance over the pictures and places of what goes into the BatchNorm, float64 (C,) each."""
_Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class NormDrift:
    """One BatchNorm halfway.

    variance  measured variance over the blended running_var, median over the channels, divided by the same figure at the ends
              (their geometric mean), so that what is only due to the probe's pictures cancels; below 1 the activations have shrunk.
    mean      root mean square over the channels of measured mean minus blended running_mean, in blended standard deviations, beyond
              what it is at the ends.
    """

    pair: str
    layer: str
    variance: float
    mean: float

    @property
    def drifted(self) -> bool:
        return not 1 / DRIFTED < self.variance < DRIFTED or self.mean > SHIFTED


def norm_drifts(
    pair: str,
    ends: tuple[_Tensors, _Tensors],
    measured: tuple[Measured, Measured],
    middle: Measured,
) -> list[NormDrift]:
    """One NormDrift for each BatchNorm that was measured, in the order of `middle`.

    ends      both members' tensors; measured   statistics that each member has on the pictures, middle   those halfway.
    """
    rows = []
    for layer, found in middle.items():
        if f"{layer}.running_var".lstrip(".") not in ends[0]:  # a network that names its modules otherwise than its file
            continue
        running = [_running(tensors, layer) for tensors in ends]
        half = tuple((one + other) / 2 for one, other in zip(*running, strict=True))
        alone = [_against(there, own) for there, own in zip((measured[0][layer], measured[1][layer]), running, strict=True)]
        variance, mean = _against(found, (half[0], half[1]))
        usual = float(np.sqrt(alone[0][0] * alone[1][0]))
        rows.append(NormDrift(pair, layer, variance / usual, max(mean - max(alone[0][1], alone[1][1]), 0.0)))
    return rows


def _running(tensors: _Tensors, layer: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    prefix = f"{layer}." if layer else ""
    mean, variance = (tensors[f"{prefix}{name}"].astype(np.float64) for name in ("running_mean", "running_var"))
    return mean, variance


def _against(
    found: tuple[NDArray[np.float64], NDArray[np.float64]], running: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> tuple[float, float]:
    """Median ratio of the variances, and the shift of the means."""
    spread = np.maximum(running[1], 0) + EPSILON
    ratio = (found[1] + EPSILON) / spread
    shift = (found[0] - running[0]) / np.sqrt(spread)
    return float(np.median(ratio)), float(np.sqrt(np.mean(shift**2)))

"""Midpoint: what the network makes of one picture halfway between two members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

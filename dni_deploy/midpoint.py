"""Midpoint: what the network makes of one picture halfway between two members."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dni_deploy.signature import Signature

SIDE = 96
"""Height and width of the test picture: several times the reach of the networks that are run on it, and quick on a CPU."""

COLLAPSED = 0.5
"""Error against the mean of the ends, in standard deviations of that picture, from which little of it is left."""
CONTRAST = (0.5, 2.0)
"""Contrast, in parts of the ends', outside of which the picture has faded or burst."""
DEPARTED = 1.0
"""Error in half distances of the ends: from 1 on, the middle lies outside of what is between them."""


@dataclass(frozen=True)
class Midpoint:
    """The output at alpha 0.5 against the mean of the outputs at both ends.

    error       root mean square of the difference, in standard deviations of the mean of the ends (the loss barrier).
    departure   the same difference, in half distances between the ends; below 1 the middle is nearer to their mean than they are.
    brightness  mean of the middle minus mean of the ends, in parts of the value range.
    contrast    standard deviation of the middle over that of the ends.
    finite      whether every number is.
    """

    pair: str
    error: float
    departure: float
    brightness: float
    contrast: float
    finite: bool

    @property
    def collapsed(self) -> bool:
        return not self.finite or self.error > COLLAPSED or not CONTRAST[0] <= self.contrast <= CONTRAST[1]

    @property
    def departed(self) -> bool:
        """Outside of what lies between the ends, by more than an eye would miss."""
        return self.departure > DEPARTED and self.error > 0.02


def midpoint(
    pair: str, first: NDArray[np.float32], middle: NDArray[np.float32], second: NDArray[np.float32], span: float = 1.0
) -> Midpoint:
    """Compare three outputs of one shape, in float64. span: the value range, high - low."""
    if not all(np.isfinite(output).all() for output in (first, middle, second)):
        return Midpoint(pair, float("inf"), float("inf"), 0.0, 0.0, False)
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
    )


def probe_input(signature: Signature, picture: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
    """What to run: the middle of the picture, or a drawn one, as float32 (1, C, H, W); for a generator, seeded noise."""
    channels, step = signature.input_channels, signature.multiple
    if signature.kind == "latent":
        return np.random.default_rng(0).standard_normal((1, channels, 1, 1)).astype(np.float32)
    rgb = drawn() if picture is None else picture
    height, width = (min(size, max(SIDE, step)) // step * step or step for size in rgb.shape[:2])
    top, left = (max((have - want) // 2, 0) for have, want in zip(rgb.shape[:2], (height, width), strict=True))
    part = (
        np.resize(rgb, (height, width, 3))
        if rgb.shape[0] < height or rgb.shape[1] < width
        else rgb[top:, left:][:height, :width]
    )
    planes = part.astype(np.float32).transpose(2, 0, 1) / 255
    planes = planes.mean(axis=0, keepdims=True) if channels == 1 else planes[np.arange(channels) % 3]
    return np.ascontiguousarray((planes * (signature.high - signature.low) + signature.low)[None], np.float32)


def drawn() -> NDArray[np.uint8]:
    """A picture with slopes, edges, stripes and grain, uint8 (SIDE, SIDE, 3); always the same."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    planes = np.stack([x, y, (x + y) / 2], axis=-1) * 0.6 + 0.2
    planes[(x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.06] = (0.85, 0.3, 0.2)
    planes[(x > 0.55) & (y > 0.5) & (np.floor(x * 24) % 2 == 0)] *= 0.35
    planes += np.random.default_rng(0).normal(0, 0.04, planes.shape) * (y > 0.75)[..., None]
    return np.asarray(np.clip(np.rint(planes * 255), 0, 255), np.uint8)

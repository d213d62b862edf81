"""Frames that a session rendered, with the alpha they were rendered with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.imaging.frames import Frame


class RenderedFrame(NamedTuple):
    """An output frame with the weights that made it.

    Attributes:
        output: uint8 (scale * H, scale * W, 3), RGB.
        generation: Of the weights; grows by one at each change.
        coefficients: Of the weights, one per member.
    """

    output: Frame
    generation: int
    coefficients: Coefficients


class RenderedPixels(NamedTuple):
    """A `RenderedFrame` before rounding.

    Attributes:
        pixels: float32 (3, scale * H, scale * W) in 0..255, not clamped.
        generation: As in `RenderedFrame`.
        coefficients: As in `RenderedFrame`.
    """

    pixels: NDArray[np.float32]
    generation: int
    coefficients: Coefficients

"""Frames that a session rendered, with the alpha they were rendered with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients


class RenderedFrame(NamedTuple):
    """An output frame with the weights that made it.

    Attributes:
        output: (scale * H, scale * W, 3) of the input's dtype, RGB.
        generation: Of the weights; grows by one at each change.
        coefficients: Of the weights, one per member.
    """

    output: NDArray[Any]
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

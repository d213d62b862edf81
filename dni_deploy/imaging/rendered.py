"""Frames that a session rendered, with the alpha they were rendered with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.imaging.frames import Frame


class RenderedFrame(NamedTuple):
    """An output with what made it: the generation (grows by one at each change) and the coefficients."""

    output: Frame
    generation: int
    coefficients: Coefficients


class RenderedPixels(NamedTuple):
    """As Stamped, before rounding: float32 (3, scale * H, scale * W) in 0..255, not clamped."""

    pixels: NDArray[np.float32]
    generation: int
    coefficients: Coefficients

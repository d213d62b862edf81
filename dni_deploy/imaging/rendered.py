"""Frames that a session rendered, with the alpha they were rendered with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.imaging.frames import convert_depth


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

    def __repr__(self) -> str:
        kind = getattr(self.output, "dtype", type(self.output).__name__)
        return f"<RenderedFrame {kind} {self.output.shape}, generation {self.generation}, {self.coefficients}>"

    def _repr_html_(self) -> str:
        """Shows a notebook the frame and its alpha; without the frame where that is in a GPU's memory."""
        from dni_deploy.imaging.html import format_html  # Pillow, which frames do not need

        picture = convert_depth(self.output, np.uint8) if isinstance(self.output, np.ndarray) else None
        return format_html(repr(self), self.coefficients, picture)


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

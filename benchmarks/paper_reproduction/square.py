"""Small square photographs, on which the effect families are shown and measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.photographs import photograph, resize_image


def square(name: str, side: int = 256) -> NDArray[np.uint8]:
    """Resizes the short side of a photograph to `side` pixels and crops the central square, (side, side, 3)."""
    pixels = photograph(name)
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    shrunk = resize_image(pixels, round(width * scale), round(height * scale))
    top, left = ((extent - side) // 2 for extent in shrunk.shape[:2])
    return shrunk[top : top + side, left : left + side]

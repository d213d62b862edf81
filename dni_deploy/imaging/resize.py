"""A frame resized to another size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.imaging.frames import WHITE_LEVELS, AnyFrame


def resize_frame(frame: AnyFrame, width: int, height: int) -> NDArray[Any]:
    """Resizes a frame by Lanczos with three lobes; where it becomes pixelser, the filter grows with it.

    Args:
        frame: uint8, uint16 or float32 (H, W, 3).
        width: Of the result in pixels.
        height: Of the result in pixels.

    Returns:
        (height, width, 3) of the frame's dtype; integers are rounded and clamped. The frame itself where it has that size.
    """
    if frame.shape[:2] == (height, width):
        return frame
    # In float32, which Pillow resizes one channel at a time: of 8 bits it rounds after each direction, of 16 it resizes nothing.
    channels = [
        np.asarray(Image.fromarray(channel.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS))
        for channel in np.moveaxis(frame, 2, 0)
    ]
    resized = np.stack(channels, axis=2)
    if frame.dtype == np.float32:
        return resized
    rounded: NDArray[Any] = np.rint(resized).clip(0, WHITE_LEVELS[frame.dtype]).astype(frame.dtype)
    return rounded

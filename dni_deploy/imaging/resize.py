"""A frame resized to another size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.imaging.frames import AnyFrame


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
    if frame.dtype == np.uint8:
        pixels: NDArray[np.uint8] = np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
        return pixels
    # Pillow resizes float32 one channel at a time, and uint16 not at all.
    channels = [
        np.asarray(Image.fromarray(channel.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS))
        for channel in np.moveaxis(frame, 2, 0)
    ]
    resized: NDArray[np.float32] = np.stack(channels, axis=2)
    if frame.dtype == np.float32:
        return resized
    rounded: NDArray[np.uint16] = np.rint(resized).clip(0, 65535).astype(np.uint16)
    return rounded

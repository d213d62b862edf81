"""What a caller passes as a frame: an array, one with transparency, or an image of Pillow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import UsageError
from dni_deploy.imaging.frames import WHITE_LEVELS


def split_transparency(frame: Any) -> tuple[Any, NDArray[Any] | None]:
    """Splits a frame into the colors that the network takes and their transparency.

    Args:
        frame: An array (H, W, 4), RGBA, of uint8, uint16 or float32; an image of Pillow, of 8 bits a channel or 16-bit gray; or
            anything else.

    Returns:
        Colors (H, W, 3), those under hidden pixels filled from visible ones; transparency (H, W), None where everything is
        opaque. Anything else is returned as it is.

    Raises:
        UsageError: An image of Pillow holds other pixels.
    """
    if hasattr(frame, "getbands"):
        frame = _to_array(frame)
    if not isinstance(frame, np.ndarray) or frame.dtype not in WHITE_LEVELS or frame.ndim != 3 or frame.shape[2] != 4:
        return frame, None
    from dni_deploy.imaging.transparency import fill_hidden_colors  # Pillow, which frames do not need

    transparency = frame[..., 3].copy()
    return fill_hidden_colors(frame[..., :3], transparency), transparency


def join_transparency(output: NDArray[Any], transparency: NDArray[Any]) -> NDArray[Any]:
    """Joins colors (H, W, 3) and transparency, which is resized (bicubic) where its size differs, to (H, W, 4)."""
    from dni_deploy.imaging.transparency import resize_transparency

    return np.dstack([output, resize_transparency(transparency, *output.shape[:2])])


def _to_array(image: Any) -> NDArray[Any]:
    if image.mode.startswith("I;16"):
        return np.repeat(np.asarray(image).astype(np.uint16)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UsageError(f"An image of Pillow with pixels of the kind {image.mode!r} has no white level; pass an array.")
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))

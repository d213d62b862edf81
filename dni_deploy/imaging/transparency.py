"""Transparency: it is resized beside the colors, and colors that it hides never reach the network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.imaging.frames import WHITE_LEVELS, AnyFrame


def fill_hidden_colors(rgb: AnyFrame, alpha: NDArray[Any]) -> AnyFrame:
    """Replaces the colors of fully transparent pixels by those of visible pixels around them.

    A network looks at neighbors, so a color that no viewer shows would come through at the rim of what is visible. The colors
    that are filled in are means of visible ones, nearer ones first, each weighted by its opacity.

    Args:
        rgb: uint8, uint16 or float32 (H, W, 3).
        alpha: (H, W), 0 where a pixel is hidden.

    Returns:
        A new array; `rgb` itself where no pixel is hidden, or all are.

    Source: Gortler et al., "The Lumigraph" (1996), section 3.4: push-pull.
    """
    is_hidden = alpha == 0
    if not is_hidden.any() or is_hidden.all():
        return rgb
    return _fill_from_coarser(rgb, alpha.astype(np.float32), WHITE_LEVELS[rgb.dtype])


def resize_transparency(alpha: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resizes transparency, bicubic.

    Args:
        alpha: uint8, uint16 or float32 (H, W).
        height: Of the result.
        width: Of the result.

    Returns:
        The dtype of `alpha`; `alpha` itself where its size is right.
    """
    if alpha.shape == (height, width):
        return alpha
    levels = alpha if alpha.dtype == np.uint8 else alpha.astype(np.float32)  # Pillow does not resize 16 bits
    resized = np.array(Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC))
    if alpha.dtype == np.uint8:
        return resized
    np.clip(resized, 0, WHITE_LEVELS[alpha.dtype], out=resized)
    return resized if alpha.dtype == np.float32 else np.rint(resized).astype(alpha.dtype)


def _fill_from_coarser(colors: NDArray[Any], weights: NDArray[np.float32], white: float) -> NDArray[Any]:
    """Fills pixels of weight 0 from the means of 2x2 pixels, which are filled in the same way if they need it."""
    is_empty = weights == 0
    if not is_empty.any():
        return colors
    height, width = weights.shape
    sums = np.zeros(((height + 1) // 2, (width + 1) // 2, 3), np.float32)
    sum_of_weights = np.zeros(sums.shape[:2], np.float32)
    for rows, columns in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part_weights = weights[rows::2, columns::2]
        part = np.where(part_weights[..., None] > 0, colors[rows::2, columns::2], 0)  # a hidden NaN times 0 is a NaN
        sums[: part.shape[0], : part.shape[1]] += part * part_weights[..., None]
        sum_of_weights[: part.shape[0], : part.shape[1]] += part_weights
    np.divide(sums, sum_of_weights[..., None], out=sums, where=sum_of_weights[..., None] > 0)
    coarse = _fill_from_coarser(sums, sum_of_weights, white)
    filled = colors.copy()
    for channel in range(3):
        plane = Image.fromarray(np.ascontiguousarray(coarse[..., channel]))
        size = (2 * coarse.shape[1], 2 * coarse.shape[0])
        smooth = np.asarray(plane.resize(size, Image.Resampling.BILINEAR))[:height, :width]
        if filled.dtype != np.float32:
            smooth = np.clip(np.rint(smooth), 0, white)
        np.copyto(filled[..., channel], smooth, where=is_empty, casting="unsafe")
    return filled

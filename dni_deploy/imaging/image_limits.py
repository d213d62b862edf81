"""How large an image may be: what its output and the copies of it need, against the memory that is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from dni_deploy.errors import LimitError, UsageError, escape_name
from dni_deploy.utils.hardware import available_memory_bytes

MAX_PIXELS_VARIABLE = "DNI_MAX_PIXELS"

MAX_FRAME_PIXELS = 10**8
"""Largest output of a frame of a video or stream, of which several are under way at once."""

BYTES_PER_OUTPUT_PIXEL: Mapping[np.dtype[Any], int] = {
    np.dtype(np.uint8): 16,
    np.dtype(np.uint16): 32,
    np.dtype(np.float32): 56,
}
"""By the dtype of the frame: output, the same with transparency, what the encoder takes and what it gives. Measured with random
pixels, which no encoder makes smaller: tests/dni_deploy/imaging/test_image_limits.py. WebP, of at most 268 megapixels, takes up
to 44 for lossless random ones."""


def read_max_pixels() -> int | None:
    """Reads DNI_MAX_PIXELS, the number of output pixels that is allowed whatever the memory is; None where it is not set.

    Raises:
        UsageError: It is not a number above 0.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, "").strip().replace("_", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:20]) > 0):
        raise UsageError(
            f"{MAX_PIXELS_VARIABLE} is {escape_name(text, 40)!r} and must be a number of pixels, such as 200000000."
        )
    return int(text[:20])


def max_frame_pixels() -> int:
    """Returns the largest output of a frame of a video or stream: DNI_MAX_PIXELS or MAX_FRAME_PIXELS."""
    return read_max_pixels() or MAX_FRAME_PIXELS


def check_image_size(
    path: str | os.PathLike[str],
    width: int,
    height: int,
    *,
    scale: int = 1,
    dtype: Any = np.uint8,
    max_pixels: int | None = None,
) -> None:
    """Checks that the output of an image can be made here; nothing of the image needs to have been decoded.

    Args:
        path: Of the image, for the message.
        width: In pixels.
        height: In pixels.
        scale: Of the network.
        dtype: Of the frame.
        max_pixels: The most output pixels; None for DNI_MAX_PIXELS, or without it what the memory holds.

    Raises:
        LimitError: It cannot.
    """
    pixels = width * height * scale * scale
    allowed = read_max_pixels() if max_pixels is None else max_pixels
    size = f"The image {escape_name(path)} has {width}x{height} pixels"
    if scale > 1:
        size += f", its output {width * scale}x{height * scale}"
    advice = f"Cut the image, or allow it with --max-pixels {pixels} (run) or {MAX_PIXELS_VARIABLE}={pixels}."
    if allowed is not None:
        if pixels > allowed:
            raise LimitError(f"{size}, and {allowed:,} are allowed. {advice}")
        return
    memory = available_memory_bytes()
    needed = pixels * BYTES_PER_OUTPUT_PIXEL[np.dtype(dtype)]
    if memory is not None and needed > memory:
        raise LimitError(f"{size}; that takes {needed / 1e9:,.1f} GB of memory, and {memory / 1e9:,.1f} GB are free. {advice}")
    if memory is None and pixels > MAX_FRAME_PIXELS:
        raise LimitError(f"{size}, and this system does not say how much memory is free. {advice}")

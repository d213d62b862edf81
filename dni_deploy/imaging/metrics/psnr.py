"""PSNR of two 8-bit frames, and how it is printed."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from dni_deploy.imaging.metrics.frame_sizes import check_same_size
from dni_deploy.utils.compare_arrays import psnr_db


def psnr(output: NDArray[Any], reference: NDArray[Any]) -> float:
    """Computes the PSNR of two 8-bit frames over all pixels and channels.

    Args:
        output: uint8 (H, W, C), or float values in 0..255 of any shape.
        reference: Of the same shape.

    Returns:
        The ratio in dB; inf for identical frames.

    Raises:
        MismatchError: The sizes differ.
    """
    check_same_size("PSNR", output, reference)
    return psnr_db(output, reference, 255)


def format_db(value: float) -> str:
    """Formats a PSNR: "27.31 dB", or "identical"."""
    return "identical" if math.isinf(value) else f"{value:.2f} dB"


def to_json_number(value: float | None) -> float | None:
    """Converts a number for JSON, which knows no infinity: None for an infinite one (identical frames) and for None."""
    return None if value is None or not math.isfinite(value) else value

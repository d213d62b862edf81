"""Measures: how far a picture is from a reference."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from dni_deploy.errors import MismatchError
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
    if output.shape != reference.shape:
        raise MismatchError(
            f"The picture is {_format_size(output)} and the reference {_format_size(reference)}; "
            "they must be of one size to be compared."
        )
    return psnr_db(output, reference, 255)


def format_db(value: float) -> str:
    """A PSNR for people: "27.31 dB", or "identical"."""
    return "identical" if math.isinf(value) else f"{value:.2f} dB"


def to_json_number(value: float | None) -> float | None:
    """A number for JSON, which knows no infinity: None for an infinite one (identical pictures) and for None."""
    return None if value is None or not math.isfinite(value) else value


def _format_size(frame: NDArray[Any]) -> str:
    return "x".join(str(number) for number in (frame.shape[1], frame.shape[0])) if frame.ndim >= 2 else str(frame.shape)

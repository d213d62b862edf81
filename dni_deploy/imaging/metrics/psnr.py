"""Measures: how far a picture is from a reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import MismatchError


def mean_squared_error(output: NDArray[Any], reference: NDArray[Any]) -> float:
    """Mean of the squared differences over all pixels and channels, in float64; same shape, 0..255.

    Raises MismatchError if the sizes differ.
    """
    if output.shape != reference.shape:
        raise MismatchError(
            f"The picture is {_format_size(output)} and the reference {_format_size(reference)}; they must be of one size to be compared."
        )
    difference = output.astype(np.float64) - reference.astype(np.float64)
    return float(np.mean(np.square(difference, out=difference)))


def psnr(output: NDArray[Any], reference: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures in dB, over all channels; infinity if they are identical."""
    error = mean_squared_error(output, reference)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def format_db(value: float) -> str:
    """A PSNR for people: "27.31 dB", or "identical"."""
    return "identical" if math.isinf(value) else f"{value:.2f} dB"


def to_json_number(value: float | None) -> float | None:
    """A number for JSON, which knows no infinity: None for an infinite one (identical pictures) and for None."""
    return None if value is None or not math.isfinite(value) else value


def _format_size(frame: NDArray[Any]) -> str:
    return "x".join(str(number) for number in (frame.shape[1], frame.shape[0])) if frame.ndim >= 2 else str(frame.shape)

"""Measures: how far a picture is from a reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import MismatchError


def mean_squared_error(picture: NDArray[Any], reference: NDArray[Any]) -> float:
    """Mean of the squared differences over all pixels and channels, in float64; same shape, 0..255.

    Raises MismatchError if the sizes differ.
    """
    if picture.shape != reference.shape:
        raise MismatchError(
            f"The picture is {_size(picture)} and the reference {_size(reference)}; they must be of one size to be compared."
        )
    difference = picture.astype(np.float64) - reference.astype(np.float64)
    return float(np.mean(np.square(difference, out=difference)))


def psnr(picture: NDArray[Any], reference: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures in dB, over all channels; infinity if they are identical."""
    error = mean_squared_error(picture, reference)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def decibels(value: float) -> str:
    """A PSNR for people: "27.31 dB", or "identical"."""
    return "identical" if math.isinf(value) else f"{value:.2f} dB"


def json_number(value: float | None) -> float | None:
    """A number for JSON, which knows no infinity: None for an infinite one (identical pictures) and for None."""
    return None if value is None or not math.isfinite(value) else value


def _size(picture: NDArray[Any]) -> str:
    return "x".join(str(number) for number in (picture.shape[1], picture.shape[0])) if picture.ndim >= 2 else str(picture.shape)

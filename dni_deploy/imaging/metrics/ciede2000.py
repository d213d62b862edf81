"""CIEDE2000: how different two pictures' colours look, by scikit-image (extra `tune`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

from dni_deploy.errors import MismatchError
from dni_deploy.imaging.frames import Frame


def to_lab(frame: Frame) -> NDArray[np.float64]:
    """The picture, sRGB, in CIELAB under D65; float64 (H, W, 3)."""
    converted: NDArray[np.float64] = rgb2lab(frame.astype(np.float64) / 255)
    return converted


def compute_color_difference(output: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Mean CIEDE2000 over the pixels of two pictures in CIELAB; for small differences it grows in proportion to them."""
    return float(np.mean(deltaE_ciede2000(output, reference)))


def ciede2000(output: Frame, reference: Frame) -> float:
    """Mean colour difference of two pictures; 0 for equal ones. Raises MismatchError if the sizes differ."""
    if output.shape != reference.shape:
        raise MismatchError(
            f"The pictures are {output.shape[1]}x{output.shape[0]} and {reference.shape[1]}x{reference.shape[0]}; "
            "they must be of one size to be compared."
        )
    return compute_color_difference(to_lab(output), to_lab(reference))

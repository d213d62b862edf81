"""CIEDE2000: how different the colors of two frames look, by scikit-image (extra `tune`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.frame_sizes import check_same_size


def to_lab(frame: Frame) -> NDArray[np.float64]:
    """Converts a frame, uint8 (H, W, 3) in sRGB, to CIELAB under D65: float64 (H, W, 3)."""
    return np.asarray(rgb2lab(frame.astype(np.float64) / 255), np.float64)


def compute_color_difference(output: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Computes the mean CIEDE2000 over the pixels of two images in CIELAB; small differences count in proportion."""
    return float(np.mean(deltaE_ciede2000(output, reference)))


def ciede2000(output: Frame, reference: Frame) -> float:
    """Computes the mean color difference of two frames.

    Args:
        output: uint8 (H, W, 3), sRGB.
        reference: Of the same shape.

    Returns:
        Mean CIEDE2000; 0 for equal frames.

    Raises:
        MismatchError: The sizes differ.
    """
    check_same_size("CIEDE2000", output, reference)
    return compute_color_difference(to_lab(output), to_lab(reference))

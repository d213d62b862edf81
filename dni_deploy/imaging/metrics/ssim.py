"""SSIM: structural similarity of two pictures, by scikit-image (extra `tune`)."""

from __future__ import annotations

from skimage.metrics import structural_similarity

from dni_deploy.errors import MismatchError
from dni_deploy.imaging.frames import Frame

WINDOW_SIDE_PX = 11
"""Side in pixels of the Gaussian window that the paper takes (sigma 1.5, cut at 3.5 sigma)."""


def ssim(output: Frame, reference: Frame) -> float:
    """Mean structural similarity over pixels and the three channels, with the window and constants of the paper; 1 for equal ones.

    Raises MismatchError for sizes that differ or lie below WINDOW_SIDE_PX.  Source: Wang, Bovik, Sheikh, Simoncelli, 2004.
    """
    if output.shape != reference.shape or min(output.shape[:2]) < WINDOW_SIDE_PX:
        raise MismatchError(
            f"SSIM needs two pictures of one size, at least {WINDOW_SIDE_PX} pixels a side; "
            f"got {output.shape[1]}x{output.shape[0]} and {reference.shape[1]}x{reference.shape[0]}."
        )
    return float(
        structural_similarity(
            output,
            reference,
            data_range=255,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )

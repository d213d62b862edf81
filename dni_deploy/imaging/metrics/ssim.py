"""SSIM: structural similarity of two frames, by scikit-image (extra `tune`)."""

from __future__ import annotations

from skimage.metrics import structural_similarity

from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.frame_sizes import check_same_size

WINDOW_SIDE_PX = 11
"""Side of the Gaussian window that the paper uses (sigma 1.5, cut at 3.5 sigma)."""


def ssim(output: Frame, reference: Frame) -> float:
    """Computes the mean structural similarity over pixels and channels, with the window and constants of the paper.

    Args:
        output: uint8 (H, W, 3).
        reference: Of the same shape.

    Returns:
        The index; 1 for equal frames.

    Raises:
        MismatchError: The sizes differ or lie below WINDOW_SIDE_PX.

    Source: Wang, Bovik, Sheikh, Simoncelli, 2004.
    """
    check_same_size("SSIM", output, reference, WINDOW_SIDE_PX)
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

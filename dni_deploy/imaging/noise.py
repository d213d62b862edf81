"""Gaussian noise in an image: estimated from the image alone, and added to one."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dni_deploy.errors import MismatchError
from dni_deploy.imaging.frames import Frame

NOISE_SIGMA = 40
"""Sigma of noise that is added for a demonstration, of 255. The paper says variance 40; its pictures and DnCNN's convention are
sigma."""

PATCH_SIDE_PX = 7
"""Side of a patch: 49 directions, of which a photograph needs a part and the noise fills all."""

MIN_NOISE_SIDE_PX = 64
"""At least 500 patches are left where only the seventh of them can be used."""

CLIPPING_MARGIN_SIGMA = 2.0
"""A patch counts where its mean is this many sigma from black and from white: 2.3 % of its noise is cut off at most."""

MIN_PATCH_FRACTION = 0.15
"""But at least this fraction of the patches, those farthest from both ends."""

SIGMA_ITERATIONS = 4
"""Sigma decides which patches count, and they decide sigma; by then it has converged."""


def add_noise(clean: Frame, seed: int = 0) -> Frame:
    """Adds Gaussian noise of sigma NOISE_SIGMA to a frame.

    Args:
        clean: uint8 (H, W, 3).
        seed: Seed of the noise.

    Returns:
        A fresh uint8 (H, W, 3), rounded and clipped to 0..255, as an image file has it.
    """
    noise = np.random.default_rng(seed).normal(0, NOISE_SIGMA, clean.shape)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def estimate_noise(frame: Frame) -> float:
    """Estimates the standard deviation of the noise before it was clipped to 0..255.

    An image file has its noise cut off at black and white. There its deviation is smaller, so dark and bright patches are left
    out.

    Args:
        frame: uint8 (H, W, 3).

    Returns:
        Sigma in levels of 255, the same for all channels: the square root of their mean variance.

    Raises:
        MismatchError: The image is below MIN_NOISE_SIDE_PX on a side.

    Source: Chen, Zhu, Heng, "An Efficient Statistical Method for Image Noise Level Estimation", ICCV 2015, algorithm 1, for
    each channel.
    """
    if min(frame.shape[:2]) < MIN_NOISE_SIDE_PX:
        raise MismatchError(
            f"An image of {frame.shape[1]}x{frame.shape[0]} pixels is too small to estimate its noise; it takes "
            f"{MIN_NOISE_SIDE_PX} a side. Give the noise as a number: --noise SIGMA."
        )
    channels = [_extract_patches(frame[..., channel].astype(np.float64)) for channel in range(frame.shape[2])]
    sigma = 0.0
    for _ in range(SIGMA_ITERATIONS):
        variances = [_estimate_variance(patches[_select_unclipped(patches, sigma)]) for patches in channels]
        sigma = float(np.sqrt(np.mean(variances)))
    return sigma


def _extract_patches(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    return sliding_window_view(plane, (PATCH_SIDE_PX, PATCH_SIDE_PX)).reshape(-1, PATCH_SIDE_PX * PATCH_SIDE_PX)


def _select_unclipped(patches: NDArray[np.float64], sigma: float) -> NDArray[np.bool_]:
    means = patches.mean(axis=1)
    margin = np.minimum(means, 255 - means)
    return np.asarray(margin >= min(CLIPPING_MARGIN_SIGMA * sigma, float(np.quantile(margin, 1 - MIN_PATCH_FRACTION))))


def _estimate_variance(patches: NDArray[np.float64]) -> float:
    """The patches of an image lie in a few directions, so the smallest eigenvalues of their covariance are the noise's alone.

    How many of them those are, the noise tells: in a sample of pure noise, mean and median of the eigenvalues agree.
    """
    values = np.linalg.eigvalsh(np.cov(patches, rowvar=False))  # ascending
    for count in range(len(values), 0, -1):
        mean = values[:count].mean()
        if np.sum(values[:count] > mean) >= np.sum(values[:count] < mean):
            return max(float(mean), 0.0)
    raise AssertionError("unreachable")  # of one value, none is above its mean and none below

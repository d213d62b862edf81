"""SURE: the mean squared error of a denoised image, estimated without the clean one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from dni_deploy.errors import MismatchError
from dni_deploy.imaging.frames import BLUE_WEIGHT, RED_WEIGHT, Frame, to_network
from dni_deploy.signature import Signature

Array = NDArray[np.float64]
Infer = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""The raw network, as Session.infer: float32 (N, C, H, W) -> float32 (N, C, H, W)."""

PERTURBATION = 1.0
"""How far the random probe moves each value, of 255: enough that float32 does not round it away, small beside any noise worth
removing."""

MIN_VALUE, MAX_VALUE = 0.0, 255.0

LUMA_NOISE = float(np.linalg.norm((RED_WEIGHT, 1 - RED_WEIGHT - BLUE_WEIGHT, BLUE_WEIGHT)))
"""The noise of luma where that of the three colors is 1 and independent."""


class SureEstimator:
    """Stein's unbiased risk estimate of one noisy image: its divergence by Monte Carlo, its clipped pixels by what they hid.

    An image file has its noise cut off at black and white, and Stein's lemma is for noise that is not: used as it is, the
    estimate picks networks that are far from the best (docs/tune.md has the numbers). So a clipped pixel is given the mean and
    the mean square of the values that would have been clipped there, under a pilot estimate: any denoised version of the image.

    Source: Ramani, Blu, Unser, "Monte-Carlo SURE", IEEE Transactions on Image Processing 17, 2008; moments of the truncated
    normal.
    """

    def __init__(self, frame: Frame, sigma: float, signature: Signature, pilot: Infer, seed: int = 0) -> None:
        """Runs the pilot and draws the random probe, once, so that all networks are compared under the same one.

        Args:
            frame: The noisy image, uint8 (H, W, 3), height and width multiples of signature.multiple.
            sigma: Standard deviation of its noise before clipping, of 255, the same in all channels.
            signature: The network's.
            pilot: The network at some middle alpha; called once.
            seed: Of the random probe.

        Raises:
            MismatchError: The network changes the size.
        """
        if signature.scale != 1:
            raise MismatchError(
                "Without a reference only a denoiser can be judged, by the noise that it leaves; "
                f"this network enlarges by {signature.scale}. Give --reference."
            )
        if signature.color == "luma":  # of independent noise in three channels
            sigma *= LUMA_NOISE
        self._variance = sigma**2
        self._signature = signature
        self._units_per_level = (signature.high - signature.low) / 255
        self._x = to_network(frame, signature)
        signs = np.random.default_rng(seed).integers(0, 2, self._x.shape, np.int8)
        self._probe = (2 * signs - 1).astype(np.float32)
        noisy = np.rint((self._x.astype(np.float64) - signature.low) / self._units_per_level)
        self._is_unclipped = (noisy > MIN_VALUE) & (noisy < MAX_VALUE)
        self._unclipped_mean, second = moments_before_clipping(noisy, self._infer_clipped(pilot, self._x), sigma)
        self._power = float(np.mean(second)) - self._variance  # of the clean picture: E z^2 = x^2 + sigma^2

    def estimate_mean_squared_error(self, infer: Infer) -> float:
        """Estimates the mean squared error of the network's image, of 255 squared, by two inferences; it may be below 0."""
        output = self._infer_clipped(infer, self._x)
        moved = self._infer_clipped(infer, self._x + np.float32(PERTURBATION * self._units_per_level) * self._probe)
        # A clipped value does not follow the noise, so neither does what is made of it.
        divergence = np.mean(self._probe * (moved - output) * self._is_unclipped) / PERTURBATION
        return float(np.mean(output * (output - 2 * self._unclipped_mean)) + 2 * self._variance * divergence + self._power)

    def _infer_clipped(self, infer: Infer, x: NDArray[np.float32]) -> Array:
        """Returns the image in 0..255, clipped as a file is, not rounded: a rounded one does not move with the probe."""
        y = infer(x).astype(np.float64)
        image = x - y if self._signature.residual else y
        return np.clip((image - self._signature.low) / self._units_per_level, MIN_VALUE, MAX_VALUE)


def moments_before_clipping(noisy: Array, clean: Array, sigma: float) -> tuple[Array, Array]:
    """Computes mean and mean square of z given min(max(z, 0), 255) = noisy, for z normal around `clean`.

    Args:
        noisy: float64 of any shape, in 0..255.
        clean: The mean of z, of the same shape.
        sigma: The standard deviation of z.

    Returns:
        Mean and mean square, of the same shape.
    """
    first, second = noisy.copy(), noisy**2
    if sigma == 0:
        return first, second
    for end, side in ((MIN_VALUE, -1.0), (MAX_VALUE, 1.0)):
        is_clipped = noisy <= MIN_VALUE if side < 0 else noisy >= MAX_VALUE
        mean = clean[is_clipped]
        distance = side * (end - mean)  # of the end from the mean, >= 0
        tail = sigma * _compute_mills_ratio(distance / sigma)
        first[is_clipped] = mean + side * tail
        second[is_clipped] = mean**2 + 2 * mean * side * tail + sigma**2 + distance * tail
    return first, second


def _compute_mills_ratio(t: Array) -> Array:
    """Computes density over upper tail of the standard normal."""
    ratio: Array = np.exp(-0.5 * t * t - 0.5 * np.log(2 * np.pi) - log_ndtr(-t))
    return ratio

"""Measures of what an effect changes in an image, one number each. None of them was used as a training loss, except for the
kind of the color distance.

Images are uint8 (H, W, 3) RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

Pixels = NDArray[np.uint8]

QUANTILE_COUNT = 257
"""Quantiles at which two distributions are compared: more of them do not change the third digit of any figure."""

DERIVATIVE_SIGMAS_PX = (1.0, 2.0, 4.0, 8.0)
"""Standard deviations of the derivative filters, in pixels: from a line to a large tile."""


def luminance(pixels: Pixels) -> NDArray[np.float64]:
    """Rec. 601 weights, (H, W) in [0, 1]."""
    return np.asarray(pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255)


def brightness_ranks(pixels: Pixels) -> NDArray[np.float64]:
    """Luminance replaced by its rank, (H, W) in [0, 1]: independent of any change of tone."""
    gray = luminance(pixels)
    return np.asarray(stats.rankdata(gray, axis=None).reshape(gray.shape) / gray.size)


def color_distance(pixels: Pixels, other: Pixels) -> float:
    """Sliced Wasserstein distance of the two images' colors, in [0, 1]; positions do not count."""
    directions = np.random.default_rng(0).normal(size=(32, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    first, second = (_quantiles(directions @ (each.reshape(-1, 3) / 255).T) for each in (pixels, other))
    return float(np.abs(first - second).mean())


def texture_distance(pixels: Pixels, other: Pixels) -> float:
    """How differently the two images' brightness ranks vary: Wasserstein distance of oriented derivatives, mean over 4 scales
    and 4 directions, each in units of `other`'s spread. Color and tone do not count."""
    total = []
    for first, second in zip(_derivatives(pixels), _derivatives(other), strict=True):
        total.append(np.abs(_quantiles(first.reshape(1, -1)) - _quantiles(second.reshape(1, -1))).mean() / second.std())
    return float(np.mean(total))


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Of each row, (rows, QUANTILE_COUNT). Sorted in float32, which is several times as fast and rounds by 1e-7 of the range."""
    ordered = np.sort(values.astype(np.float32), axis=1)
    return ordered[:, np.rint(np.linspace(0, ordered.shape[1] - 1, QUANTILE_COUNT)).astype(int)]


def _derivatives(pixels: Pixels) -> list[NDArray[np.float64]]:
    ranks = brightness_ranks(pixels)
    derivatives = []
    for scale in DERIVATIVE_SIGMAS_PX:
        down, across = (ndimage.gaussian_filter(ranks, scale, order=order) for order in ((1, 0), (0, 1)))
        derivatives += [np.cos(angle) * across + np.sin(angle) * down for angle in np.arange(4) * np.pi / 4]
    return derivatives


def stroke_length(pixels: Pixels) -> float:
    """Pixels over which the brightness ranks change: their standard deviation divided by the RMS of their gradient."""
    ranks = brightness_ranks(pixels)
    down, across = np.gradient(ranks)
    return float(ranks.std() / np.sqrt(np.mean(down**2 + across**2)))


def sharpness(pixels: Pixels, mask: NDArray[np.float64]) -> float:
    """Mean absolute Laplacian of the luminance where `mask` (H, W) weighs, in levels of 255."""
    detail = np.abs(ndimage.laplace(luminance(pixels))) * 255
    return float(np.average(detail, weights=mask))


def fineness(pixels: Pixels, mask: NDArray[np.float64]) -> float:
    """Fraction of fine detail, weighted by `mask`: mean absolute Laplacian divided by that of the image blurred by 2 pixels.

    Light and contrast change both alike, so that blur is measured in dark images, too.
    """
    gray = luminance(pixels)
    fine, coarse = (
        np.average(np.abs(detail), weights=mask) for detail in (ndimage.laplace(gray), ndimage.gaussian_laplace(gray, 2.0))
    )
    return float(fine / coarse)


def rise(values: Sequence[float]) -> float:
    """Spearman's correlation of the values with their order: 1 if each is above the one before, -1 if below.

    NaN if they are all equal.
    """
    if np.ptp(values) == 0:
        return float("nan")
    return float(stats.spearmanr(np.arange(len(values)), values).statistic)


def ink(digits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Generated digits (N, 1, H, W) in [-1, 1] -> how much of each is ink, (N,) in [0, 1]."""
    return np.asarray((digits.astype(np.float64).mean((1, 2, 3)) + 1) / 2)


def lean(digits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Generated digits -> how far each leans to the right, degrees (N,), by the second moments of its ink."""
    weights = (digits[:, 0].astype(np.float64) + 1) / 2
    rows, columns = np.mgrid[: digits.shape[2], : digits.shape[3]]
    mass = weights.sum((1, 2))
    down = rows - ((weights * rows).sum((1, 2)) / mass)[:, None, None]
    across = columns - ((weights * columns).sum((1, 2)) / mass)[:, None, None]
    return np.asarray(np.degrees(np.arctan(-(weights * down * across).sum((1, 2)) / (weights * down * down).sum((1, 2)))))

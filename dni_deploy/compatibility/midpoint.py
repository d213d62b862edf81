"""The network halfway between two members: its output, its error against a reference, its BatchNorm statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLLAPSE_ERROR = 0.5
"""Error against the mean of the ends, in standard deviations of that mean, from which it is another image; that alone is no
fault: half of one style and half of another is neither's."""

LOST_DEPARTURE = 2.0
"""Error in half distances of the ends, from which the middle is farther from their mean than they are from each other."""

CONTRAST_RANGE = (0.5, 2.0)
"""Contrast, as a fraction of the ends', outside of which the image is flat or overdriven."""

OUTSIDE_DEPARTURE = 1.0
"""Error in half distances of the ends: from 1 on, the middle lies outside of what is between them."""

MIN_VISIBLE_ERROR = 0.02
"""Error in standard deviations of the mean of the ends, up to which a departure is not seen."""


@dataclass(frozen=True)
class Midpoint:
    """The output at alpha 0.5 against the mean of the outputs of both ends.

    Attributes:
        pair: The pair's name.
        error: Root mean square of the difference, in standard deviations of the mean of the ends.
        departure: The same difference, in half distances between the ends; below 1 the middle is nearer to their mean than
            they are.
        brightness: Mean of the middle minus mean of the ends, as a fraction of the value range.
        contrast: Standard deviation of the middle over that of the ends.
        finite: Whether all numbers are finite.
        test_image: The input's name.
    """

    pair: str
    error: float
    departure: float
    brightness: float
    contrast: float
    finite: bool
    test_image: str = ""

    @property
    def is_collapsed(self) -> bool:
        """Whether the middle is another image than the ends: not finite, flat, overdriven, or far from both."""
        has_contrast = CONTRAST_RANGE[0] <= self.contrast <= CONTRAST_RANGE[1]
        return not self.finite or not has_contrast or (self.error > COLLAPSE_ERROR and self.departure > LOST_DEPARTURE)

    @property
    def is_outside_ends(self) -> bool:
        """Whether the middle lies outside of what is between the ends, by more than an eye would miss."""
        return self.departure > OUTSIDE_DEPARTURE and self.error > MIN_VISIBLE_ERROR


def measure_midpoint(
    pair: str,
    first: NDArray[np.float32],
    middle: NDArray[np.float32],
    second: NDArray[np.float32],
    span: float = 1.0,
    test_image: str = "",
) -> Midpoint:
    """Compares three outputs in float64.

    Args:
        pair: The pair's name.
        first: The first member's output, float32 of any shape.
        middle: The blend's, of the same shape.
        second: The second member's, of the same shape.
        span: The value range, high - low.
        test_image: The input's name.
    """
    if not all(np.isfinite(output).all() for output in (first, middle, second)):
        return Midpoint(pair, float("inf"), float("inf"), 0.0, 0.0, False, test_image)
    one, half, other = (output.astype(np.float64) for output in (first, middle, second))
    mean = (one + other) / 2
    noise = 1e-6 * span  # of float32; outputs that equal each other up to it have no distance to compare with
    error, distance = (float(np.sqrt(np.mean(part**2))) for part in (half - mean, (one - other) / 2))
    deviation = float((one.std() + other.std()) / 2)
    return Midpoint(
        pair,
        error=error / max(float(mean.std()), noise) if error > noise else 0.0,
        departure=error / max(distance, noise) if error > noise else 0.0,
        brightness=float(half.mean() - mean.mean()) / span,
        contrast=float(half.std()) / deviation if deviation > noise else 1.0,
        finite=True,
        test_image=test_image,
    )


def average_midpoints(midpoints: Sequence[Midpoint]) -> Midpoint:
    """Averages the figures of several test images of one pair."""
    if len(midpoints) == 1:
        return midpoints[0]
    error, departure, brightness, contrast = (
        float(np.mean([getattr(row, name) for row in midpoints])) for name in ("error", "departure", "brightness", "contrast")
    )
    finite = all(row.finite for row in midpoints)
    return Midpoint(midpoints[0].pair, error, departure, brightness, contrast, finite, f"{len(midpoints)} test images")


MIN_MEAN_SQUARED_ERROR = (1 / 255 / 16) ** 2
"""In parts of the squared value range, far below what 8 bits can hold: errors below it are not compared as a ratio."""


@dataclass(frozen=True)
class Barrier:
    """Mean squared errors against the reference, as fractions of the squared value range.

    Attributes:
        pair: The pair's name.
        test_image: The input's name, and what was done to it.
        first: Error of the first member.
        middle: Error of the blend.
        second: Error of the second member.
        pixel_blend: Error of the mean of both members' outputs.
        input: Error of the input itself, enlarged to the output's size; None where the two are no images of one kind.
        noise: Sigma, of 255, of the noise that was added to the input; 0 without.
        calibrated: Error of the blend whose output was calibrated on the other test images; None where that is not known.
    """

    pair: str
    test_image: str
    first: float
    middle: float
    second: float
    pixel_blend: float
    input: float | None = None
    noise: int = 0
    calibrated: float | None = None

    @property
    def barrier(self) -> float:
        """The loss barrier at alpha 0.5; negative where the blend is better than the ends are on average.

        Source: linear mode connectivity, Frankle et al., ICML 2020.
        """
        return self.middle - (self.first + self.second) / 2

    @property
    def decibels(self) -> float:
        """The barrier as a ratio, 10 log10(middle / mean of the ends); positive is worse."""
        return _error_ratio_db(self.middle, (self.first + self.second) / 2)

    @property
    def beyond(self) -> float:
        """Decibels above the worse end; negative where the middle is better than that."""
        return _error_ratio_db(self.middle, max(self.first, self.second))

    @property
    def pixel_blend_beyond(self) -> float:
        """Decibels above the worse end of the mean of both outputs."""
        return _error_ratio_db(self.pixel_blend, max(self.first, self.second))


def measure_barrier(
    pair: str,
    test_image: str,
    outputs: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    reference: NDArray[np.float32],
    low: float,
    high: float,
    x: NDArray[np.float32] | None = None,
    noise: int = 0,
    calibrated: NDArray[np.float32] | None = None,
) -> Barrier:
    """Compares outputs with a reference; values are clipped to low..high, as those of an image are.

    Args:
        pair: The pair's name.
        test_image: The input's name.
        outputs: Of the first member, the blend and the second member; float32, of the reference's shape.
        reference: What the network should return.
        low: Value of black.
        high: Value of white.
        x: The input, (N, C, H, W).
        noise: Sigma, of 255, of the noise that was added to it.
        calibrated: The blend's output with a calibration; None without.
    """
    first, middle, second = (np.clip(np.nan_to_num(y.astype(np.float64), nan=low), low, high) for y in outputs)
    enlarged = None if x is None else _enlarge(x, reference.shape)

    def error(image: NDArray[Any]) -> float:
        return float(np.mean(np.square((image - reference) / (high - low))))

    return Barrier(
        pair, test_image, error(first), error(middle), error(second), error((first + second) / 2),
        None if enlarged is None else error(enlarged), noise,
        None if calibrated is None else error(np.clip(calibrated, low, high)),
    )  # fmt: skip


def _enlarge(x: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Repeats the pixels until the image has this shape; None where it cannot have it."""
    scale = shape[2] // x.shape[2]
    enlarged = x.astype(np.float64).repeat(scale, axis=2).repeat(scale, axis=3)
    return enlarged if enlarged.shape == shape else None


def _error_ratio_db(error: float, other: float) -> float:
    return 10 * math.log10(max(error, MIN_MEAN_SQUARED_ERROR) / max(other, MIN_MEAN_SQUARED_ERROR))


MAX_END_GAP_DB = 10.0
"""A member that is farther below the other one, or below its own input, does not do the task: to be better than it says nothing. Of
50 public pairs none has ends more than 5.4 dB apart on a photograph."""


@dataclass(frozen=True)
class BlendLoss:
    """PSNRs in dB, each of the mean squared error over all test images, as a loss is averaged over data.

    Attributes:
        test_images: Their names.
        noise: Sigma, of 255, of the noise that was added to them; 0 without.
        first: PSNR of the first member.
        middle: PSNR of the blend halfway.
        second: PSNR of the second member.
        pixel_blend: PSNR of the mean of both members' outputs.
        input: PSNR of the input itself, enlarged; None where that is no image of the same kind.
        calibrated: PSNR of the blend with its output calibrated on the other test images; None where that is not known.
    """

    test_images: tuple[str, ...]
    noise: int
    first: float
    middle: float
    second: float
    pixel_blend: float
    input: float | None = None
    calibrated: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether both members do the task, so that a comparison with the worse one says something."""
        worse, better = sorted((self.first, self.second))
        floor = better - MAX_END_GAP_DB
        if self.input is not None:
            floor = max(floor, self.input if self.noise else self.input - MAX_END_GAP_DB)
        return worse >= floor

    @property
    def loss(self) -> float:
        """Decibels by which the blend halfway is below the worse end; negative where it is better."""
        return min(self.first, self.second) - self.middle

    @property
    def pixel_blend_loss(self) -> float:
        """Decibels by which the mean of both outputs is below the worse end."""
        return min(self.first, self.second) - self.pixel_blend

    def format_figures(self) -> dict[str, str]:
        """Returns the figures for a table by their headings."""
        count = len(self.test_images)
        return {
            "images": f"{count}, noise {self.noise}" if self.noise else f"{count}",
            "first, dB": f"{self.first:.2f}",
            "halfway": f"{self.middle:.2f}",
            "second": f"{self.second:.2f}",
            "calibrated": "-" if self.calibrated is None else f"{self.calibrated:.2f}",
            "pixel blending": f"{self.pixel_blend:.2f}",
            "loss": f"{self.loss:+.2f}",
        }


def measure_blend_loss(barriers: Sequence[Barrier]) -> BlendLoss | None:
    """Averages the barriers of one pair over its test images; of several noise levels, takes the one that loses most.

    A level that both members do not restore hides what the blend loses.

    Args:
        barriers: The pair's, by test image.

    Returns:
        The loss; None without barriers, and where a member does not do the task.
    """
    losses = []
    for noise in sorted({row.noise for row in barriers}):
        rows = [row for row in barriers if row.noise == noise]
        psnrs = (
            None if getattr(rows[0], name) is None else _psnr(float(np.mean([getattr(row, name) for row in rows])))
            for name in ("first", "middle", "second", "pixel_blend", "input", "calibrated")
        )
        losses.append(BlendLoss(tuple(row.test_image for row in rows), noise, *psnrs))  # type: ignore[arg-type]
    return max((row for row in losses if row.is_known), key=lambda row: row.loss, default=None)


def _psnr(error: float) -> float:
    return -10 * math.log10(max(error, MIN_MEAN_SQUARED_ERROR))


VARIANCE_EPSILON = 1e-5
"""Added to every variance, as BatchNorm does: channels that are constant in a member count for nothing."""

MAX_VARIANCE_RATIO = 2.0
"""A ratio of variances, or its inverse, from which on the statistics of a layer no longer fit."""

MAX_MEAN_SHIFT_SIGMA = 0.5
"""A shift of the mean in standard deviations, from which on the statistics of a layer no longer fit."""

NormInputStatistics = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""By layer: mean and variance over images and places of what enters the BatchNorm, float64 (C,) each."""

_Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class BatchNormMismatch:
    """How well the statistics of one BatchNorm fit halfway.

    Attributes:
        pair: The pair's name.
        layer: The BatchNorm's name.
        variance: Measured variance over the blend's running_var, median over the channels, divided by the same figure at the
            ends (their geometric mean), so that what is only due to the test images cancels; below 1 the activations have
            shrunk.
        mean: Root mean square over the channels of measured mean minus the blend's running_mean, in its standard deviations,
            beyond what it is at the ends.
    """

    pair: str
    layer: str
    variance: float
    mean: float

    @property
    def has_drifted(self) -> bool:
        """Whether the statistics no longer fit."""
        return not 1 / MAX_VARIANCE_RATIO < self.variance < MAX_VARIANCE_RATIO or self.mean > MAX_MEAN_SHIFT_SIGMA


def measure_batchnorm_mismatches(
    pair: str, tensors: Sequence[_Tensors], measured: Sequence[NormInputStatistics]
) -> list[BatchNormMismatch]:
    """Compares the measured statistics of each BatchNorm with those that it normalizes by.

    Args:
        pair: The pair's name.
        tensors: What the network computes with at the first member, halfway and at the second member: halfway the statistics
            are those that are blended, or calibrated.
        measured: The statistics measured there on the test images.

    Returns:
        A row for each BatchNorm, in the order of `measured`.
    """
    rows = []
    for layer in measured[1]:
        first, middle, second = (
            _compare_statistics(statistics[layer], weights, layer)
            for statistics, weights in zip(measured, tensors, strict=True)
        )
        ratio_at_ends = float(np.sqrt(first[0] * second[0]))
        shift = max(middle[1] - max(first[1], second[1]), 0.0)
        rows.append(BatchNormMismatch(pair, layer, middle[0] / ratio_at_ends, shift))
    return rows


def _compare_statistics(
    measured: tuple[NDArray[np.float64], NDArray[np.float64]], tensors: _Tensors, layer: str
) -> tuple[float, float]:
    """Returns the median ratio of the variances, and the shift of the means in standard deviations."""
    prefix = f"{layer}." if layer else ""
    mean, variance = (tensors[f"{prefix}{name}"].astype(np.float64) for name in ("running_mean", "running_var"))
    expected = np.maximum(variance, 0) + VARIANCE_EPSILON
    ratio = (measured[1] + VARIANCE_EPSILON) / expected
    shift = (measured[0] - mean) / np.sqrt(expected)
    return float(np.median(ratio)), float(np.sqrt(np.mean(shift**2)))

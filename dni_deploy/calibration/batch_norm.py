"""BatchNorm statistics of a family's blends, estimated on pictures instead of blended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.blending.calibration_table import CalibrationTable, Moments
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.onnxruntime_cpu.statistics import BatchNormEstimator, BatchNormLayer

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class BatchNormShift:
    """How far the statistics of one BatchNorm are from the blend of the members', at the calibration point where that is
    farthest.

    Attributes:
        layer: Name of the layer.
        mean: Root mean square over the channels of the difference of means, in standard deviations of the channel.
        variance: Median over the channels of the larger variance over the smaller; 1 if nothing moved.
        coefficients: The coefficients of the point with the largest shift of the mean.
    """

    layer: str
    mean: float
    variance: float
    coefficients: tuple[float, ...]


def fit_batch_norm(
    graph: onnx.ModelProto,
    members: Sequence[Tensors],
    points: NDArray[np.float64],
    batches: Sequence[NDArray[np.float32]],
    threads: int = 0,
    progress: OptionalProgress = None,
) -> tuple[dict[str, list[Moments]], tuple[BatchNormLayer, ...]]:
    """Estimates mean and variance before each BatchNorm at each point.

    Args:
        graph: The bundle's graph.
        members: Each member's weights by name.
        points: float64 (K, N), coefficients, the members alone among them.
        batches: Inputs, float32 (B, C, H, W).
        threads: Number of threads; 0: one per core.
        progress: Called with the points done.

    Returns:
        Mean and variance for each point by the name of the running mean, and the layers.
    """
    estimator = BatchNormEstimator(graph, tuple(members[0]), threads)
    estimates = []
    for number, point in enumerate(points):
        report_progress(progress, number, len(points), "BatchNorm statistics of the blends")
        estimates.append(estimator.estimate(blend_float64(members, point), batches))
    epsilons = {layer.mean: layer.epsilon for layer in estimator.layers}
    member_statistics = {layer.mean: read_moments(layer, members) for layer in estimator.layers}
    return correct_estimates(points, estimates, member_statistics, epsilons), estimator.layers


def read_moments(layer: BatchNormLayer, members: Sequence[Tensors]) -> list[Moments]:
    """Reads the mean and variance that training left in each member."""
    return [(tensors[layer.mean].astype(np.float64), tensors[layer.variance].astype(np.float64)) for tensors in members]


def correct_estimates(
    calibration_points: NDArray[np.float64],
    estimates: Sequence[Mapping[str, Moments]],
    member_statistics: Mapping[str, Sequence[Moments]],
    epsilons: Mapping[str, float],
) -> dict[str, list[Moments]]:
    """Corrects estimates on a few images by what the members' own statistics say.

    The images are not the training set, and at a member alone the estimate is off by as much as that matters. By as much,
    between the members in proportion, every estimate is corrected: variances by a factor, means by a number of standard
    deviations. So the ends stay what they are, members that are equal keep their statistics at every point, and what a few
    images get wrong cancels.

    Args:
        calibration_points: float64 (K, N), the members alone among them.
        estimates: For each calibration point, mean and variance on the images by layer.
        member_statistics: By layer, mean and variance of each member as training left them.
        epsilons: By layer, what is added to the variance.

    Returns:
        By layer, mean and variance for each calibration point.
    """
    ends = [int(np.flatnonzero(calibration_points[:, member] == 1.0)[0]) for member in range(calibration_points.shape[1])]
    corrected: dict[str, list[Moments]] = {}
    for layer, members in member_statistics.items():
        log_factors, shifts, epsilon = [], [], epsilons[layer]
        for end, (mean, variance) in zip(ends, members, strict=True):
            estimated_mean, estimated_variance = estimates[end][layer]
            log_factors.append(np.log((variance + epsilon) / (estimated_variance + epsilon)))
            shifts.append((mean - estimated_mean) / np.sqrt(estimated_variance + epsilon))
        rows = corrected[layer] = []
        for point, estimate in zip(calibration_points, estimates, strict=True):
            mean, variance = estimate[layer]
            factor, shift = np.exp(point @ np.stack(log_factors)), point @ np.stack(shifts)
            rows.append((mean + shift * np.sqrt(variance + epsilon), np.maximum((variance + epsilon) * factor - epsilon, 0.0)))
    return corrected


def measure_shift(
    layer: BatchNormLayer, table: CalibrationTable, member_statistics: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> BatchNormShift:
    """Measures how far the table is from the blend of the members' own statistics."""
    means, variances = (np.stack(rows) for rows in zip(*member_statistics, strict=True))
    plain_mean, plain_variance = table.calibration_points @ means, np.maximum(table.calibration_points @ variances, 1e-12)
    variances_now = np.maximum(table.statistics[layer.variance], 1e-12)
    shifts = np.sqrt((((table.statistics[layer.mean] - plain_mean) ** 2) / plain_variance).mean(axis=1))
    ratios = np.median(np.maximum(variances_now, plain_variance) / np.minimum(variances_now, plain_variance), axis=1)
    farthest = int(shifts.argmax())
    name = layer.mean.removesuffix("running_mean").rstrip(".") or layer.mean
    return BatchNormShift(
        name, float(shifts[farthest]), float(ratios.max()), tuple(table.calibration_points[farthest].tolist())
    )

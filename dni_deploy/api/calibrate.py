"""Estimates the BatchNorm statistics of a family's blends on given images, and stores them in the bundle."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.blending.calibration_table import (
    CalibrationTable,
    correct_estimates,
    default_steps,
    enumerate_calibration_points,
)
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_calibration
from dni_deploy.errors import MismatchError, UsageError, escape_name
from dni_deploy.imaging.crops import CropSource, read_crops
from dni_deploy.imaging.image_file import Paths, list_images
from dni_deploy.signature import Signature
from dni_deploy.utils.log_duration import log_duration
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.calibration_file import list_statistics_names, serialize_calibration

log = logging.getLogger(__name__)

NOISE_INPUT_WORD = "noise"
"""The word that stands for images, for a network that makes images from noise."""

CROPS_PER_BATCH = 8
"""Number of crops that go through the network at once: the activations of more would only take memory."""

LATENT_DRAWS = 256
"""Number of draws of noise; a latent has one pixel, and the first layers' statistics come from so many numbers a channel."""


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


@dataclass(frozen=True)
class CalibrationReport:
    """What was estimated, and what is in the bundle now.

    Attributes:
        bundle: Path of the bundle.
        digest: SHA-256 of its manifest now, in hex.
        calibration_points: Number of coefficients at which the statistics are known, the members alone included.
        layers: How far each BatchNorm moved, in the network's order; empty if the statistics were removed.
        sample_count: Number of crops, or of draws of noise, that the statistics come from.
        sample_side_px: Side of the crops in pixels.
        images: The images that the crops come from, with their SHA-256.
        seconds: Time for everything.
        removed: The statistics were removed.
    """

    bundle: str
    digest: str
    calibration_points: int
    layers: tuple[BatchNormShift, ...]
    sample_count: int
    sample_side_px: int
    images: tuple[CropSource, ...]
    seconds: float
    removed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return {**asdict(self), "images": [image._asdict() for image in self.images]}


def calibrate(
    bundle_path: Bundle | str | os.PathLike[str],
    images: Paths = (),
    *,
    calibration_points: int | None = None,
    remove: bool = False,
    threads: int = 0,
    force: bool = False,
    progress: OptionalProgress = None,
) -> CalibrationReport:
    """Estimates mean and variance before each BatchNorm at blends between the members, and stores them in the bundle.

    Every engine then computes with them, interpolated between the calibration points; each member alone stays as it is, bit
    for bit.

    Args:
        bundle_path: The bundle or its path.
        images: Files or folders, degraded as the network's input is; "noise" for a network that makes images from noise.
        calibration_points: Maximum number of coefficients to estimate at, 32 or fewer; None: 11 for two members, 32 for more.
        remove: Remove the stored statistics instead.
        threads: Number of threads; 0: one per core.
        force: Replace stored statistics.
        progress: Called with the calibration points done.

    Returns:
        What was estimated.

    Raises:
        UsageError: Statistics exist already, there are none to remove, or there is no image.
        MismatchError: The family has no BatchNorm, or an image is too small.
        LimitError: More calibration points than are allowed, or fewer than it takes.
        UnavailableError: ONNX Runtime is not installed.
        EngineError: The network failed. In all cases the bundle is as it was; storing is one step, and a crash leaves the old
            statistics or the new ones.
    """
    started = time.perf_counter()
    bundle = Bundle.ensure_open(bundle_path)
    bundle_name = os.fspath(bundle.path)
    if remove:
        if bundle.manifest.calibration is None:
            raise UsageError(f"{escape_name(bundle_name)} has no re-estimated statistics to remove.")
        digest = store_calibration(bundle, None).digest
        return CalibrationReport(bundle_name, digest, 0, (), 0, 0, (), time.perf_counter() - started, removed=True)
    if bundle.manifest.calibration is not None and not force:
        raise UsageError(
            f"{escape_name(bundle_name)} has re-estimated statistics; give --force to replace them. Nothing was written."
        )
    if not list_statistics_names(bundle):
        raise MismatchError(
            f"The network of {escape_name(bundle_name)} has no BatchNorm whose statistics could be re-estimated."
        )
    steps = default_steps(len(bundle.members), calibration_points)
    inputs, sources = _read_inputs(bundle.signature, [images] if isinstance(images, (str, os.PathLike)) else list(images))
    with log_duration(log, "estimating the BatchNorm statistics"):
        table, shifts = estimate_statistics(bundle, inputs, steps, sources, threads, progress)
    digest = store_calibration(bundle, serialize_calibration(table)).digest
    sample_count, side = len(inputs), inputs.shape[-1]
    return CalibrationReport(
        bundle_name,
        digest,
        len(table.calibration_points),
        shifts,
        sample_count,
        side,
        tuple(sources),
        time.perf_counter() - started,
    )


def estimate_statistics(
    bundle: Bundle,
    inputs: NDArray[np.float32],
    steps: int,
    sources: Sequence[CropSource] = (),
    threads: int = 0,
    progress: OptionalProgress = None,
) -> tuple[CalibrationTable, tuple[BatchNormShift, ...]]:
    """Estimates the statistics of a bundle's blends. Nothing is written.

    Args:
        bundle: The bundle.
        inputs: float32 (B, C, H, W), in the network's range.
        steps: Grid steps along an edge of the simplex.
        sources: The images that the inputs come from, for the record.
        threads: Number of threads; 0: one per core.
        progress: Called with the calibration points done.

    Returns:
        The table of statistics, and how far each layer moved.
    """
    statistics = import_optional("engines.onnxruntime_cpu.statistics")
    report_progress(progress, 0, 1, "reading the members")
    members = [bundle.read_weights(member) for member in bundle.members]
    estimator = statistics.BatchNormEstimator(bundle.read_graph(), bundle.weight_names, threads)
    points = enumerate_calibration_points(len(members), steps) / steps
    batches = [inputs[start : start + CROPS_PER_BATCH] for start in range(0, len(inputs), CROPS_PER_BATCH)]
    estimates = []
    for number, point in enumerate(points):
        coefficients_text = ", ".join(
            f"{escape_name(name)}={share:.3g}" for name, share in zip(bundle.members, point, strict=True) if share
        )
        report_progress(progress, number, len(points), f"statistics at {coefficients_text}")
        estimates.append(estimator.estimate(blend_float64(members, point), batches))
    member_statistics = {
        layer.mean: [
            (tensors[layer.mean].astype(np.float64), tensors[layer.variance].astype(np.float64)) for tensors in members
        ]
        for layer in estimator.layers
    }
    epsilons = {layer.mean: layer.epsilon for layer in estimator.layers}
    corrected = correct_estimates(points, estimates, member_statistics, epsilons)
    inner = points.max(axis=1) < 1.0
    rows = {}
    for layer in estimator.layers:
        pairs = [pair for pair, is_inner in zip(corrected[layer.mean], inner, strict=True) if is_inner]
        rows[layer.mean] = np.stack([mean for mean, _ in pairs])
        rows[layer.variance] = np.stack([variance for _, variance in pairs])
    about = {
        "parts": len(inputs),
        "side": int(inputs.shape[-1]),
        "pictures": [source._asdict() for source in sources] or NOISE_INPUT_WORD,
        "made_by": f"onnxruntime {statistics.get_runtime_version()}",
    }
    table = CalibrationTable.from_inner_statistics(members, steps, rows, about)
    return table, tuple(_measure_shift(layer, table, member_statistics[layer.mean]) for layer in estimator.layers)


def _read_inputs(signature: Signature, paths: list[str | os.PathLike[str]]) -> tuple[NDArray[np.float32], list[CropSource]]:
    latent = signature.kind == "latent"
    if latent != (paths == [NOISE_INPUT_WORD]) and (latent or paths == [NOISE_INPUT_WORD]):
        raise UsageError(
            "This network makes images from noise, so that no image goes into it; give the word noise instead."
            if latent
            else "This network takes images; name some that are degraded as its input will be, not noise."
        )
    if latent:
        shape = (LATENT_DRAWS, signature.input_channels, 1, 1)
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32), []
    return read_crops(list_images(paths), signature)


def _measure_shift(
    layer: Any, table: CalibrationTable, member_statistics: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> BatchNormShift:
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


__all__ = ["BatchNormShift", "CalibrationReport", "calibrate", "estimate_statistics"]

"""Calibrates the blends of a family on given images, and stores the calibration in the bundle."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.calibration_table import default_steps
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_calibration
from dni_deploy.calibration.batch_norm import BatchNormShift
from dni_deploy.calibration.score import MethodScore
from dni_deploy.errors import MismatchError, UsageError, escape_name
from dni_deploy.imaging.crops import CropSource, read_crops
from dni_deploy.imaging.image_paths import Paths, list_images
from dni_deploy.signature import Signature
from dni_deploy.utils.log_duration import log_duration
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress
from engines.calibrated_network import serialize_calibration

log = logging.getLogger(__name__)

NOISE_INPUT_WORD = "noise"
"""The word that stands for images, for a network that makes images from noise."""

LATENT_DRAWS = 256
"""Number of draws of noise; a latent has one pixel, and the first layers' statistics come from so many numbers a channel."""


@dataclass(frozen=True)
class CalibrationReport:
    """What was fitted, and what is in the bundle now.

    Attributes:
        bundle: Path of the bundle.
        digest: SHA-256 of its manifest now, in hex.
        method: "output", "channels", or "none" where neither gave anything, so that the bundle has no calibration.
        calibration_points: Number of coefficients at which the calibration is known, the members alone included.
        scores: What each method gave on crops held back; empty where one was demanded.
        layers: How far each BatchNorm moved, in the network's order; empty for any other method.
        sample_count: Number of crops, or of draws of noise.
        sample_side_px: Side of the crops in pixels.
        images: The images that the crops come from, with their SHA-256.
        seconds: Time for everything.
        removed: The calibration was removed.
    """

    bundle: str
    digest: str
    method: str
    calibration_points: int
    scores: tuple[MethodScore, ...]
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
    method: str = "auto",
    calibration_points: int | None = None,
    remove: bool = False,
    threads: int = 0,
    force: bool = False,
    progress: OptionalProgress = None,
) -> CalibrationReport:
    """Fits what blends between the members lack, and stores it in the bundle.

    Every engine then computes with it, interpolated between the calibration points; each member alone stays as it is, bit for
    bit.

    Args:
        bundle_path: The bundle or its path.
        images: Files or folders, degraded as the network's input is; "noise" for a network that makes images from noise.
        method: "output": scale and shift of the output's channels, fitted to the mean of the members' outputs. "channels":
            the same for every convolution's channels, to the blend of the members' statistics; in a network with BatchNorm the
            statistics of each BatchNorm instead. "auto": both are scored on crops held back, and the better one is stored, or
            none.
        calibration_points: Maximum number of coefficients to fit at, 32 or fewer; None: 11 for two members, 32 for more.
        remove: Remove the stored calibration instead.
        threads: Number of threads; 0: one per core.
        force: Replace a stored calibration.
        progress: Called with the calibration points done.

    Returns:
        What was fitted.

    Raises:
        UsageError: There is a calibration already, none to remove, no image, or no such method.
        MismatchError: An image is too small, all show one color, or the network has controls, or no channels to calibrate.
        LimitError: More calibration points than are allowed, or fewer than it takes.
        UnavailableError: ONNX Runtime is not installed.
        EngineError: The network failed. In all cases the bundle is as it was; storing is one step, and a crash leaves the old
            calibration or the new one.
    """
    started = time.perf_counter()
    bundle = Bundle.ensure_open(bundle_path)
    bundle_name = os.fspath(bundle.path)
    if remove:
        if bundle.manifest.calibration is None:
            raise UsageError(f"{escape_name(bundle_name)} has no calibration to remove.")
        digest = store_calibration(bundle, None).digest
        seconds = time.perf_counter() - started
        return CalibrationReport(bundle_name, digest, "none", 0, (), (), 0, 0, (), seconds, removed=True)
    if bundle.signature.controls:
        names = ", ".join(control.name for control in bundle.signature.controls)
        raise MismatchError(
            f"The statistics of this network depend on its controls ({names}), and a calibration is fitted at one value of "
            "each: it cannot be calibrated. Nothing was written."
        )
    if bundle.manifest.calibration is not None and not force:
        raise UsageError(f"{escape_name(bundle_name)} has a calibration; give --force to replace it. Nothing was written.")
    steps = default_steps(len(bundle.members), calibration_points)
    inputs, sources = _read_inputs(bundle.signature, [images] if isinstance(images, (str, os.PathLike)) else list(images))
    about = {
        "parts": len(inputs),
        "side": int(inputs.shape[-1]),
        "pictures": [source._asdict() for source in sources] or NOISE_INPUT_WORD,
    }
    fit_calibration = import_optional("dni_deploy.calibration.fit").fit_calibration
    with log_duration(log, "fitting the calibration"):
        fit = fit_calibration(bundle, inputs, steps, method, about, threads, progress)
    if fit.table is not None:
        bundle = store_calibration(bundle, serialize_calibration(fit.table))
    elif bundle.manifest.calibration is not None:
        bundle = store_calibration(bundle, None)
    return CalibrationReport(
        bundle_name,
        bundle.digest,
        fit.method,
        0 if fit.table is None else len(fit.table.calibration_points),
        fit.scores,
        fit.shifts,
        len(inputs),
        inputs.shape[-1],
        tuple(sources),
        time.perf_counter() - started,
    )


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
    crops, sources = read_crops(list_images(paths, enter_folders=True), signature)
    if not np.ptp(crops.reshape(len(crops), crops.shape[1], -1), axis=2).any():
        raise MismatchError("Each of these images shows one color, on which nothing can be measured; give photographs.")
    return crops, sources


__all__ = ["BatchNormShift", "CalibrationReport", "MethodScore", "calibrate"]

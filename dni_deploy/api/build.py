"""Builds the engine of a bundle for this machine ahead of time, and verifies it."""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import asdict, dataclass
from typing import Any

from dni_deploy.api.calibrate import CalibrationReport, calibrate
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.imaging.image_paths import Paths, as_path_list
from dni_deploy.utils.log_duration import log_duration
from dni_deploy.utils.progress import OptionalProgress
from engines.default_profile import make_profile
from engines.interface import BuildOptions
from engines.profile import InputShape
from engines.registry import ENGINES, build_engine, choose_builder, refuse_unused_options

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildReport:
    """What `build` did.

    Attributes:
        engine: Name of the engine.
        engine_reason: Why this engine was chosen.
        plan: The plan file; None if the engine has none to write.
        update_path: How new weights reach the running network.
        weights: Number of weights that change with alpha, each of which was verified to reach the output.
        error: Largest relative error of the verification against the reference; None if it was not measured.
        precision: Precision of the plan; None if the engine has no use for it.
        profile: Input shapes of the plan; None if the engine has no use for them.
        seconds: Time for everything.
        plan_kept: The plan existed before and was only verified.
        calibration: What was calibrated or removed before the build; None if nothing was.
    """

    engine: str
    engine_reason: str
    plan: str | None
    update_path: str
    weights: int
    error: float | None
    precision: str | None
    profile: str | None
    seconds: float
    plan_kept: bool = False
    calibration: CalibrationReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return {**asdict(self), "calibration": None if self.calibration is None else self.calibration.to_json()}


@dataclass(frozen=True)
class CalibrationOptions:
    """How `build` calibrates the blends before it builds; as the arguments of `calibrate`.

    Attributes:
        images: Files or folders, or "noise"; none for no calibration.
        method: "auto", "output" or "channels".
        points: Maximum number of alphas to fit at; None for the default.
    """

    images: Paths = ()
    method: str = "auto"
    points: int | None = None


def build(
    bundle_path: str | os.PathLike[str],
    *,
    engine: str = "auto",
    precision: str | None = None,
    min_shape: str | InputShape | None = None,
    opt_shape: str | InputShape | None = None,
    max_shape: str | InputShape | None = None,
    strip: bool = False,
    device: int | str | None = None,
    threads: int = 0,
    calibration: CalibrationOptions = CalibrationOptions(),
    no_calibration: bool = False,
    force: bool = False,
    progress: OptionalProgress = None,
) -> BuildReport:
    """Builds the bundle's plan for this machine, inside the bundle; sessions then open without optimizing again.

    Args:
        bundle_path: Path of the bundle.
        engine: An engine's name, or "auto": the best one that can run here and has something to build.
        precision: "fp32" (the default), "tf32" or "fp16", for TensorRT.
        min_shape: Smallest input as "NxCxHxW", for TensorRT; the shapes that are left out have defaults (docs/gpu.md).
        opt_shape: Input to optimize for; alone, the only one.
        max_shape: Largest input.
        strip: Write a plan without weights, which are added when it is opened, for TensorRT.
        device: Number of the GPU to build for, for TensorRT. For TensorRT for RTX also compute capabilities, such as "8.6,8.9";
            a plan for GPUs that are not here is verified when one of them opens it.
        threads: Number of threads of the CPU engine; 0: one per core.
        calibration: Calibrate the blends first, as `calibrate` does; every engine then uses the calibration. A plan that
            still fits stays and is verified again.
        no_calibration: Remove the calibration. A plan that still fits stays and is verified again.
        force: Replace a plan and a calibration that exist.
        progress: Called with the steps done.

    Returns:
        What was built.

    Raises:
        UsageError: The plan exists, the engine has none, it has no use for an option that was given, or no such shape.
        BundleError: The bundle is damaged.
        UnavailableError: The engine cannot run here.
        EngineError: The engine does not compute what the reference computes.
        LimitError: There is not enough memory or disk space.
    """
    started = time.perf_counter()
    choice = choose_builder(engine)
    number, capabilities = _parse_device(device)
    shapes = (min_shape, opt_shape, max_shape)
    requested = {
        "threads": threads != 0,
        "precision": precision is not None,
        "profile": any(shape is not None for shape in shapes),
        "strip": strip,
        "compute_capabilities": bool(capabilities),
        "device": device is not None and not capabilities,
    }
    refuse_unused_options(choice, [name for name, is_requested in requested.items() if is_requested])
    has_images = bool(as_path_list(calibration.images))
    if has_images and no_calibration:
        raise UsageError("A calibration is made or removed, not both. Nothing was written.")
    if not has_images and calibration != CalibrationOptions(calibration.images):
        raise UsageError("How to calibrate was given, but not on which images. Nothing was written.")
    calibrated = None
    if has_images or no_calibration:
        calibrated = calibrate(
            bundle_path,
            calibration.images,
            method=calibration.method,
            calibration_points=calibration.points,
            remove=no_calibration,
            threads=threads,
            force=force,
            progress=progress,
        )
    bundle = Bundle.open(bundle_path)
    used_options = ENGINES[choice.name].build_option_names
    precision = precision or "fp32"
    profile = make_profile(bundle, precision, number, *shapes) if "profile" in used_options else None
    options = BuildOptions(
        threads=threads,
        precision=precision,
        profile=profile,
        strip=strip,
        compute_capabilities=capabilities,
        device=number,
        force=force,
        keep=calibrated is not None,
    )
    log.info("building for the engine %s (%s)", choice.name, choice.reason)
    with log_duration(log, "building the engine"):
        built = build_engine(bundle, choice.name, options, progress)
    return BuildReport(
        engine=choice.name,
        engine_reason=choice.reason,
        plan=None if built.plan_path is None else str(built.plan_path),
        update_path=built.update_path,
        weights=built.weight_count,
        error=built.max_relative_error,
        precision=options.precision if "precision" in used_options else None,
        profile=None if profile is None else str(profile),
        seconds=time.perf_counter() - started,
        plan_kept=built.plan_kept,
        calibration=calibrated,
    )


def _parse_device(device: int | str | None) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Reads a GPU's number, or compute capabilities as (major, minor)."""
    text = str(device or 0)
    if re.fullmatch("[0-9]{1,3}", text):
        return int(text), ()
    numbers = [re.fullmatch("([0-9]{1,2})[.]([0-9])", one.strip()) for one in text.split(",")]
    if not all(numbers):
        raise UsageError(
            f"device is the number of a GPU, from 0, or compute capabilities such as 8.6,8.9; got {escape_name(text)!r}."
        )
    return 0, tuple((int(one[1]), int(one[2])) for one in numbers if one is not None)

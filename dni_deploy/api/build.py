"""build: optimize a bundle for this machine ahead of time, and verify it."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from dni_deploy.api.recalibrate import RecalibrationReport, recalibrate
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError
from dni_deploy.imaging.image_file import Paths, as_path_list
from dni_deploy.utils.progress import OptionalProgress
from engines.interface import BuildOptions
from engines.profile import InputShape, Profile
from engines.registry import ENGINES, build_engine, choose_builder, refuse_unused_options


@dataclass(frozen=True)
class BuildReport:
    """What was built.

    engine_why  how the engine came to be the one.
    plan        the file that was written, or None where the engine has none to write; `plan_kept` if it was there before.
    road        how weights will reach the running network.
    weights     live weights, each of which was verified to reach the output.
    error       largest relative error of the verification against its reference, or None.
    precision, profile   of the plan; None where the engine has no use for them.
    recalibration   what was re-estimated or taken away before; None where nothing was asked for.
    """

    engine: str
    engine_why: str
    plan: str | None
    update_path: str
    weights: int
    error: float | None
    precision: str | None
    profile: str | None
    seconds: float
    plan_kept: bool = False
    recalibration: RecalibrationReport | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "recalibration": None if self.recalibration is None else self.recalibration.to_json()}


def build(
    bundle_path: str | os.PathLike[str],
    *,
    engine: str = "auto",
    precision: str | None = None,
    min_shape: str | InputShape | None = None,
    opt_shape: str | InputShape | None = None,
    max_shape: str | InputShape | None = None,
    strip: bool = False,
    device: int | None = None,
    threads: int = 0,
    recalibrate_on: Paths = (),
    calibration_points: int | None = None,
    no_recalibration: bool = False,
    force: bool = False,
    progress: OptionalProgress = None,
) -> BuildReport:
    """Write the bundle's plan for this machine, inside the bundle; sessions then open without optimizing again.

    engine     a name, or auto: the best one that can run here and has something to build.
    precision  "fp32" (default) or "fp16".  smallest, tuned, largest: input shapes as in Profile.from_shapes.  strip: a plan without
               weights, which get into it when it is opened.  device: the GPU's number.  All of these for TensorRT alone.
    recalibrate_on, knots   first re-estimate the BatchNorm statistics of the blends on these pictures, as `recalibrate` does; every
               engine then uses them. no_recalibration: take them away. With either, a plan that is there stays and is verified again.
    Raises BundleError, UnavailableError, UsageError (the plan exists, the engine has none, it has no use for an option that
    was given, no such shape), EngineError (not what the reference computes), LimitError (no room).
    """
    started = time.perf_counter()
    choice = choose_builder(engine)
    shapes = (min_shape, opt_shape, max_shape)
    given = {
        "threads": threads != 0,
        "precision": precision is not None,
        "profile": any(shape is not None for shape in shapes),
        "strip": strip,
        "device": device is not None,
    }
    refuse_unused_options(choice, [name for name, is_given in given.items() if is_given])
    asked = bool(as_path_list(recalibrate_on))
    if asked and no_recalibration:
        raise UsageError("Statistics are re-estimated or taken away, not both. Nothing was written.")
    if calibration_points is not None and not asked:
        raise UsageError("knots is for re-estimating statistics; name the pictures to do that on. Nothing was written.")
    made = None
    if asked or no_recalibration:
        made = recalibrate(
            bundle_path,
            recalibrate_on,
            calibration_points=calibration_points,
            remove=no_recalibration,
            threads=threads,
            force=force,
            progress=progress,
        )
    bundle = Bundle.open(bundle_path)
    takes = ENGINES[choice.name].build_option_names
    profile = Profile.from_shapes(bundle.signature, *shapes) if "profile" in takes else None
    options = BuildOptions(
        threads=threads,
        precision=precision or "fp32",
        profile=profile,
        strip=strip,
        device=device or 0,
        force=force,
        keep=made is not None,
    )
    built = build_engine(bundle, choice.name, options, progress)
    return BuildReport(
        engine=choice.name,
        engine_why=choice.reason,
        plan=None if built.plan_path is None else str(built.plan_path),
        update_path=built.update_path,
        weights=built.weight_count,
        error=built.max_relative_error,
        precision=options.precision if "precision" in takes else None,
        profile=None if profile is None else str(profile),
        seconds=time.perf_counter() - started,
        plan_kept=built.plan_kept,
        recalibration=made,
    )

"""Building: a bundle's plan for this GPU and this TensorRT: built, verified through the engine that will run it, then written."""

from __future__ import annotations

import os
from dataclasses import replace

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines import BuildResult
from engines.cuda.device import Device
from engines.options import BuildOptions, EngineOptions
from engines.profile import Profile
from engines.trt.build import BuildRequest, build_serialized_engine
from engines.trt.features import Features, detect_features
from engines.trt.modes import ENGINE_BY_PLAN_KIND
from engines.trt.network import Network
from engines.trt.plan import OutputSample, Plan, PlanHeader, plan_path, read_plan, write_plan
from engines.trt.target import PlanIdentity
from engines.trt.unwind import drop_variables
from engines.verification import Reference, sample_output, verify_at, verify_members


def build_plan(bundle: Bundle, kind: str, options: BuildOptions, progress: OptionalProgress = None) -> BuildResult:
    """Minutes for a large network. Nothing is written where the verification fails.

    Raises UsageError (it exists and force is off, or the profile does not fit), EngineError, UnavailableError, LimitError.
    """
    found = detect_features()
    precision, profile = options.precision, options.profile or Profile.from_shapes(bundle.signature)
    report_progress(progress, 0, 1, "lowering the graph")
    network = Network.from_bundle(bundle, kind, found.graph_precision(precision))
    target = PlanIdentity.for_bundle(bundle, kind, precision, profile, options.strip, options.device)
    header = PlanHeader(target, lowered=network.lowered.digest(), weights=network.weight_specs)
    path = plan_path(bundle, header)
    kept = os.path.lexists(path) and options.keep and not options.force
    if os.path.lexists(path) and not (options.force or kept):
        raise UsageError(f"{escape_name(path)} exists; give --force to build it again. Nothing was written.")
    order = BuildRequest(network.build_model(), target.settings, network.weight_names if kind == "refit" else ())
    device = Device.open(options.device)
    try:
        with device:
            plan = read_plan(path, target) if kept else Plan(header, _build_clearing_frames(order, found, progress))
    finally:
        device.close()
    report_progress(progress, 0, 1, "comparing with ONNX Runtime")
    engine = ENGINE_BY_PLAN_KIND[kind](network, plan, EngineOptions(slots=1, device=options.device), found)
    try:
        reference = Reference(bundle, network.members, profile)
        if engine.blends:
            error = verify_members(engine, reference, precision)
        else:
            error = verify_at(engine, engine.verification_coefficients, reference, precision)
        expected = sample_output(reference.compute_reference(engine.verification_coefficients))
    finally:
        engine.close()
    plan = replace(plan, header=replace(header, sample=OutputSample.from_values(bundle, expected)))
    written = write_plan(bundle, plan, force=options.force or kept)
    return BuildResult(written, engine.update_path, len(network.weight_names) if engine.blends else 0, error, kept)


def _build_clearing_frames(request: BuildRequest, features: Features, progress: OptionalProgress) -> bytes:
    try:
        return build_serialized_engine(request, features, progress)
    except BaseException as error:
        drop_variables(error)
        raise

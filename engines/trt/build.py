"""Builds a bundle's plan: a verified TensorRT engine on disk, in minutes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.calibrated_network import read_network
from engines.cuda.device import Device
from engines.default_profile import make_profile
from engines.interface import BuildOptions, BuildResult, EngineOptions
from engines.trt.builder import BuildRequest, build_serialized_engine, capability_name
from engines.trt.engine import RefitEngine, RtxRefitEngine, TensorRTEngine
from engines.trt.library import Library, load_library
from engines.trt.messages import drop_variables
from engines.trt.plan import OutputSample, Plan, PlanHeader, plan_path, read_plan, write_plan
from engines.trt.plan_identity import Capability, PlanIdentity, format_capability
from engines.verification import Reference, sample_output, verify_at, verify_members

log = logging.getLogger(__name__)


def build_plan(
    bundle: Bundle,
    options: BuildOptions,
    progress: OptionalProgress = None,
    engine_class: type[TensorRTEngine[Any]] = RefitEngine,
) -> BuildResult:
    """Builds a bundle's plan for this GPU, verifies it and writes it; nothing is written where the verification fails.

    Args:
        bundle: The bundle.
        options: How to build.
        progress: Called with the phases of the build.
        engine_class: The engine that will open the plan, which says what kind of plan it is.

    Returns:
        What was built.

    Raises:
        UsageError: The plan exists and force is off, or the profile does not fit.
        EngineError: TensorRT cannot build the graph, or the engine computes something else than ONNX Runtime.
        UnavailableError: There is no such GPU.
        LimitError: There is no room.
    """
    started = time.perf_counter()
    library, network_class = load_library(engine_class.library_name), engine_class.network_class
    _check_capabilities(options.compute_capabilities, library)
    precision, profile = options.precision, options.profile or make_profile(bundle, options.precision, options.device)
    report_progress(progress, 0, 1, "lowering the graph")
    network = network_class.from_lowered(bundle, network_class.lower(bundle, library.features.graph_precision(precision)))
    identity = PlanIdentity.for_graph(
        bundle,
        network_class,
        network.lowered,
        library,
        precision,
        profile,
        options.strip,
        options.device,
        options.compute_capabilities,
    )
    header = PlanHeader(identity, lowered=network.lowered.digest(), weights=network.weight_specs)
    path = plan_path(bundle, header)
    kept = os.path.lexists(path) and options.keep and not options.force
    if os.path.lexists(path) and not (options.force or kept):
        raise UsageError(f"{escape_name(path)} exists; give --force to build it again. Nothing was written.")
    names = network.weight_names if network.has_refittable_weights else ()
    request = BuildRequest(network.build_model(), identity.settings, names, () if identity.gpu else identity.capabilities)
    device = Device.open(options.device)
    try:
        with device:
            plan = read_plan(path, identity) if kept else Plan(header, _build_clearing_frames(request, library, progress))
    finally:
        device.close()
    if device.capability not in identity.capabilities:
        written = write_plan(bundle, plan, force=options.force or kept)
        update_path = f"{library.title}: not verified, because this GPU is not one of those; the plan is when it is opened"
        return BuildResult(written, update_path, len(network.weight_names), None, kept)
    report_progress(progress, 0, 1, "comparing with ONNX Runtime")
    engine = engine_class(network, plan, EngineOptions(slots=1, device=options.device), library)
    try:
        reference = Reference(read_network(bundle), network.members, profile)
        if engine.blends:
            error = verify_members(engine, reference, precision)
        else:
            error = verify_at(engine, engine.verification_coefficients, reference, precision)
        expected = sample_output(reference.compute_reference(engine.verification_coefficients))
    finally:
        engine.close()
    plan = replace(plan, header=replace(header, sample=OutputSample.from_values(bundle, expected)))
    written = write_plan(bundle, plan, force=options.force or kept)
    log.info("%s %s in %.1f s", "verified" if kept else "built", written, time.perf_counter() - started)
    return BuildResult(written, engine.update_path, len(network.weight_names) if engine.blends else 0, error, kept)


def build_rtx_plan(bundle: Bundle, options: BuildOptions, progress: OptionalProgress = None) -> BuildResult:
    """Builds a bundle's plan for TensorRT for RTX; see `build_plan`."""
    return build_plan(bundle, options, progress, RtxRefitEngine)


def _check_capabilities(capabilities: Sequence[Capability], library: Library) -> None:
    known = getattr(library.trt, "ComputeCapability", None)
    unknown = [one for one in capabilities if not hasattr(known, capability_name(one))]
    if known is not None and unknown:
        raise UsageError(f"{library.title} does not build for compute capability {format_capability(unknown[0])}.")


def _build_clearing_frames(request: BuildRequest, library: Library, progress: OptionalProgress) -> bytes:
    """Builds; where that fails, nothing of TensorRT stays alive in the frames of the exception."""
    try:
        return build_serialized_engine(request, library, progress)
    except BaseException as error:
        drop_variables(error)
        raise

"""Building: a bundle's plan for this GPU and this TensorRT: built, verified through the engine that will run it, then written."""

from __future__ import annotations

import os
from dataclasses import replace

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, shown
from dni_deploy.utils.progress import MaybeProgress, tell
from engines import Built
from engines.cuda.device import Device
from engines.options import BuildOptions, EngineOptions
from engines.profile import Profile
from engines.trt.build import Order, build
from engines.trt.features import Features, features
from engines.trt.modes import ENGINES
from engines.trt.network import Network
from engines.trt.plan import Header, Plan, Sample, plan_path, read_plan, write_plan
from engines.trt.target import Target
from engines.trt.unwind import drop_variables
from engines.verification import Reference, sampled, verify_at, verify_members


def build_plan(bundle: Bundle, kind: str, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """Minutes for a large network. Nothing is written where the verification fails.

    Raises UsageError (it exists and force is off, or the profile does not fit), EngineError, EnvironmentProblem, LimitError.
    """
    found = features()
    precision, profile = options.precision, options.profile or Profile.of(bundle.signature)
    tell(progress, 0, 1, "lowering the graph")
    network = Network.of(bundle, kind, found.graph_precision(precision))
    target = Target.of(bundle, kind, precision, profile, options.strip, options.device)
    header = Header(target, lowered=network.lowered.digest(), weights=network.weights)
    path = plan_path(bundle, header)
    kept = os.path.lexists(path) and options.keep and not options.force
    if os.path.lexists(path) and not (options.force or kept):
        raise UsageError(f"{shown(path)} exists; give --force to build it again. Nothing was written.")
    order = Order(network.model(), target.settings, network.names if kind == "refit" else ())
    device = Device.open(options.device)
    try:
        with device:
            plan = read_plan(path, target) if kept else Plan(header, _built(order, found, progress))
    finally:
        device.close()
    tell(progress, 0, 1, "comparing with ONNX Runtime")
    engine = ENGINES[kind](network, plan, EngineOptions(slots=1, device=options.device), found)
    try:
        reference = Reference(bundle, network.members, profile)
        if engine.blends:
            error = verify_members(engine, reference, precision)
        else:
            error = verify_at(engine, engine.checked, reference, precision)
        expected = sampled(reference.expected(engine.checked))
    finally:
        engine.close()
    plan = replace(plan, header=replace(header, sample=Sample.of(bundle, expected)))
    written = write_plan(bundle, plan, force=options.force or kept)
    return Built(written, engine.road, len(network.names) if engine.blends else 0, error, kept)


def _built(order: Order, found: Features, progress: MaybeProgress) -> bytes:
    try:
        return build(order, found, progress)
    except BaseException as error:
        drop_variables(error)
        raise

"""Opening: a bundle's newest plan as a running engine, compared with what ONNX Runtime computes before its first frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError
from dni_deploy.utils.compare_arrays import relative_error
from engines.interface import EngineOptions
from engines.trt.engine import TensorRTEngine
from engines.trt.features import detect_features
from engines.trt.modes import ENGINE_BY_PLAN_KIND, RefitEngine
from engines.trt.network import Network
from engines.trt.plan import Plan, read_plan, search_plans
from engines.verification import MAX_RELATIVE_ERROR, Reference, verify_at


def open_engine(bundle: Bundle, kind: str, options: EngineOptions) -> TensorRTEngine:
    """The engine; every slot still needs its first refit.

    Raises UnavailableError (no plan for this GPU, TensorRT and precision), RefusedError, BundleError and MismatchError (the
    plan), EngineError (it cannot be opened, or computes something else than ONNX Runtime).
    """
    found = detect_features()
    found_plan, rejected = search_plans(bundle, kind, options.precision, options.device)
    if found_plan is None:
        wanted = f" at {options.precision}" if options.precision else ""
        told = f" ({rejected})" if rejected else ""
        raise UnavailableError(
            f"No plan is built{wanted} for this GPU and this TensorRT{told}; build one with dni-deploy build --engine "
            f"tensorrt{'' if kind == 'refit' else f'-{kind}'}{f' --precision {options.precision}' if options.precision else ''}."
        )
    path, target = found_plan
    plan = read_plan(path, target)
    precision = plan.header.precision
    network = Network.from_bundle(bundle, kind, found.graph_precision(precision))
    if network.lowered.digest() != plan.header.lowered:
        raise EngineError(f"The plan {path.name} was built from another lowering of this graph; build it again.")
    engine = ENGINE_BY_PLAN_KIND[kind](network, plan, options, found)
    try:
        reference = Reference(bundle, network.members, plan.header.profile)
        sample = plan.header.sample.values_for(bundle) if plan.header.sample else None
        verify_at(engine, engine.verification_coefficients, reference, precision, sample)
        if options.cuda_graph:
            engine.detect_replay_support(reference.verification_input)
        engine.finish_verification()
    except BaseException:
        engine.close()
        raise
    return engine


def serialize_refitted(bundle: Bundle, coefficients: NDArray[np.float64], precision: str | None) -> bytes:
    """The refitted engine of one alpha, as TensorRT serializes it; compared with the one it was made from."""
    engine = open_engine(bundle, "refit", EngineOptions(slots=1, precision=precision))
    try:
        assert isinstance(engine, RefitEngine)
        engine.refit(0, coefficients)
        data = engine.serialize(0)
        plan = Plan(engine.header, data)
        x = Reference(bundle, engine.network.members, engine.header.profile).verification_input
        expected = engine.infer(0, x)
    finally:
        engine.close()
    plain = ENGINE_BY_PLAN_KIND["constant"](engine.network, plan, EngineOptions(slots=1), engine.features)
    try:
        plain.refit(0, coefficients)
        if relative_error(plain.infer(0, x), expected) > MAX_RELATIVE_ERROR[engine.header.precision]:
            raise EngineError("The engine that TensorRT serialized after the refit gives another output than the refitted one.")
    finally:
        plain.close()
    return data

"""Opening a bundle's newest TensorRT plan as a running engine, compared with ONNX Runtime before its first frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError
from dni_deploy.utils.compare_arrays import relative_error
from dni_deploy.utils.trusted_users import find_trusted_users
from engines.calibrated_network import read_network
from engines.interface import EngineOptions
from engines.trt.engine import REFIT_ENGINES, ConstantEngine, RefitEngine, RtxRefitEngine, TensorRTEngine
from engines.trt.library import load_library
from engines.trt.plan import Plan, read_plan, search_plans
from engines.verification import MAX_RELATIVE_ERROR, Reference, verify_at


def open_engine(
    bundle: Bundle, options: EngineOptions, engine_class: type[TensorRTEngine[Any]] = RefitEngine
) -> TensorRTEngine[Any]:
    """Opens the bundle's newest plan that fits.

    Args:
        bundle: The bundle.
        options: How to open it; `precision` None takes the newest plan's.
        engine_class: The engine, which says what kind of plan it opens.

    Returns:
        The engine, which the caller closes; every slot still needs its first refit.

    Raises:
        UnavailableError: There is no plan for this GPU, library and precision.
        RefusedError, BundleError, MismatchError: The plan cannot be used.
        EngineError: It cannot be opened, or computes something else than ONNX Runtime.
    """
    library, network_class = load_library(engine_class.library_name), engine_class.network_class
    users = find_trusted_users(options.trust_plans_of)
    match, rejected = search_plans(
        bundle, network_class, options.precision, options.device, library.name, digest=options.plan, users=users
    )
    if match is None:
        precision = f" at {options.precision}" if options.precision else ""
        raise UnavailableError(
            f"The engine {engine_class.name} cannot run here: no plan is built{precision} for this GPU and {library.title}"
            f"{f' ({rejected})' if rejected else ''}: {engine_class.build_command}"
            f"{f' --precision {options.precision}' if options.precision else ''}."
        )
    plan = read_plan(match.path, match.identity, users)
    network = network_class.from_lowered(bundle, match.lowered)
    if network.lowered.digest() != plan.header.lowered:
        raise EngineError(f"The plan {match.path.name} was built from another lowering of this graph; build it again.")
    engine = engine_class(network, plan, options, library)
    try:
        reference = Reference(read_network(bundle), network.members, plan.header.profile)
        sample = plan.header.sample.values_for(bundle) if plan.header.sample else None
        verify_at(engine, engine.verification_coefficients, reference, plan.header.precision, sample)
        if options.cuda_graph:
            engine.detect_replay_support(reference.verification_input)
        engine.finish_verification()
    except BaseException:
        engine.close()
        raise
    return engine


def open_rtx_engine(bundle: Bundle, options: EngineOptions) -> TensorRTEngine[Any]:
    """Opens the bundle's newest plan for TensorRT for RTX; see `open_engine`."""
    return open_engine(bundle, options, RtxRefitEngine)


def serialize_refitted(
    bundle: Bundle, coefficients: NDArray[np.float64], precision: str | None = None, name: str = "tensorrt"
) -> bytes:
    """Makes a plain TensorRT engine with the weights of one alpha, and compares it with the one that it was made from.

    Args:
        bundle: The bundle.
        coefficients: float64 (N,) or (W, N), as in `Engine.refit`.
        precision: "fp32" or "fp16"; None for the newest plan's.
        name: "tensorrt" or "tensorrt-rtx".

    Returns:
        What TensorRT serializes, without a header of ours.

    Raises:
        UnavailableError: No plan is built.
        EngineError: The engine cannot be written, or computes something else.
    """
    engine = open_engine(bundle, EngineOptions(slots=1, precision=precision), REFIT_ENGINES[name])
    try:
        assert isinstance(engine, RefitEngine)
        engine.refit(0, coefficients)
        data = engine.serialize(0)
        plan = Plan(engine.header, data)
        x = Reference(read_network(bundle), engine.network.members, engine.header.profile).verification_input
        expected = engine.infer(0, x)
    finally:
        engine.close()
    plain = ConstantEngine(engine.network, plan, EngineOptions(slots=1), engine.library)
    try:
        plain.refit(0, coefficients)
        if relative_error(plain.infer(0, x), expected) > MAX_RELATIVE_ERROR[engine.header.precision]:
            raise EngineError("The engine that TensorRT serialized after the refit gives another output than the refitted one.")
    finally:
        plain.close()
    return data

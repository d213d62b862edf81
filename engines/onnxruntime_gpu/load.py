"""Opens a bundle in ONNX Runtime on the GPU and compares it with ONNX Runtime on the CPU."""

from __future__ import annotations

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, escape_name
from engines.calibrated_network import read_network
from engines.interface import DeviceEngine, EngineOptions
from engines.lowering.gpu import find_float16_overflows, lower_for_gpu
from engines.onnxruntime_gpu.engine import BoundEngine
from engines.profile import Profile
from engines.verification import Reference, verify_mixed


def open_bound(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """Opens the engine, verified.

    Args:
        bundle: The bundle.
        options: How to open it; None as precision is fp32.

    Returns:
        The engine; every slot still needs its first refit.

    Raises:
        EngineError: It cannot be opened, a weight does not fit float16, or it computes something else.
        UnavailableError: There is no GPU, or no CUDA provider.
        LimitError: There is no room on the GPU.
    """
    precision = options.precision or "fp32"
    network = read_network(bundle)
    lowered = lower_for_gpu(network.graph, network.weight_names, precision)
    members = network.read_members()
    table = network.make_table(members)
    overflows = find_float16_overflows(lowered, members, table)
    if overflows:
        raise EngineError(
            f"{len(overflows)} weights of this family go beyond what float16 holds (65504), first {escape_name(overflows[0])!r}; "
            "use tf32 or fp32."
        )
    engine = BoundEngine(lowered, members, options, calibration=table)
    replay = engine.replay
    try:
        engine.replay = False  # a graph would be captured for the shape of the verification input
        verify_mixed(engine, Reference(network, members, Profile.from_shapes(bundle.signature)), precision)
        engine.replay = replay
        engine.invalidate_weights()
    except BaseException:
        engine.close()
        raise
    return engine

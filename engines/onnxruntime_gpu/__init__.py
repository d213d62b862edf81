"""ONNX Runtime on the GPU: weights as inputs of the graph, bound to the memory into which they are blended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dni_deploy.errors import EngineError, escape_name
from engines.interface import EngineOptions

if TYPE_CHECKING:
    from dni_deploy.bundle.bundle import Bundle
    from engines.interface import DeviceEngine


def open_bound(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """The engine, compared with ONNX Runtime on the CPU; every slot still needs its first refit.

    Raises EngineError (it cannot be opened, a weight does not fit float16, or it computes something else), UnavailableError (no
    GPU), LimitError (no room on it).
    """
    from dni_deploy.blending.batchnorm_stats_file import read_recalibration
    from engines.lowering.gpu import find_float16_overflows, lower_for_gpu
    from engines.onnxruntime_gpu.engine import BoundEngine
    from engines.profile import Profile
    from engines.verification import Reference, verify_mixed

    precision = options.precision or "fp32"
    lowered = lower_for_gpu(bundle.read_graph(), bundle.weight_names, precision)
    members = [bundle.read_weights(member) for member in bundle.members]
    known = read_recalibration(bundle, members)
    too_large = find_float16_overflows(lowered, members, known)
    if too_large:
        raise EngineError(
            f"{len(too_large)} weights of this family go beyond what float16 holds (65504), first {escape_name(too_large[0])!r}; use fp32."
        )
    engine = BoundEngine(lowered, members, options, recalibration=known)
    replay = engine.replay
    try:
        engine.replay = False  # a graph would be captured for the probe's shape
        verify_mixed(engine, Reference(bundle, members, Profile.from_shapes(bundle.signature)), precision)
        engine.replay = replay
        engine.invalidate_weights()
    except BaseException:
        engine.close()
        raise
    return engine

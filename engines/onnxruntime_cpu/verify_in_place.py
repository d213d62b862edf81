"""Verify an in-place engine before its first frame: it computes the blend, and every weight that it holds has an effect.

A slider that silently does nothing is the worst failure there is, and ONNX Runtime makes it easy: at its default options it copies, folds
or repacks the weights of a graph at load, and does not see what happens to the memory they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import BatchNormTable, blend_tensors
from dni_deploy.errors import EngineError
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import relative_error
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.engine import InPlaceEngine
from engines.onnxruntime_cpu.layout import InPlaceUnsupportedError
from engines.verification_inputs import make_verification_input, mixed_coefficients

MAX_RELATIVE_ERROR = 1e-4
"""Of the output's largest value: float32 sums in another order differ by 1e-7 to 1e-5 over hundreds of layers, while the
smallest mistake that was ever seen (BatchNorm folded before blending) is 5e-3."""

VERIFICATION_SIDES_PX = (4, 8, 16, 32, 64)


def verify_blend(
    engine: InPlaceEngine,
    graph: onnx.ModelProto,
    members: Sequence[Mapping[str, NDArray[Any]]],
    signature: Signature,
    recalibration: BatchNormTable | None = None,
) -> float:
    """Compare a mixed blend with a stock session on the bundle's own graph with float64-blended weights.

    Returns the relative error. Raises InPlaceUnsupportedError where it is above MAX_RELATIVE_ERROR. Leaves slot 0 refitted.
    """
    shares = mixed_coefficients(len(members))
    reference = runtime.open_cpu_session(runtime.bind_initializers(graph, blend_tensors(members, shares, recalibration)))
    engine.refit(0, shares)
    error = np.inf
    for sides in (
        VERIFICATION_SIDES_PX,
        VERIFICATION_SIDES_PX[-2:],
    ):  # InstanceNorm over a few pixels magnifies rounding: ask a larger picture too
        x, expected = _run_smallest_input(signature, partial(runtime.run_session, reference), sides)
        got = engine.infer(0, x)
        error = relative_error(got, expected)
        if error <= MAX_RELATIVE_ERROR:
            return error
    raise InPlaceUnsupportedError(f"the blended optimized weights give another picture than a rebuilt session, by {error:.1e}")


def verify_weight_effect(engine: InPlaceEngine, signature: Signature) -> None:
    """Change every live weight of every slot at once, and require the very bits of a session that was opened with those weights.

    One weight that the live session had copied, folded or repacked would keep its old value and change bits: this asks of each
    weight what `verify_each_weight` asks, in one run. Raises InPlaceUnsupportedError. Leaves every slot in need of a refit.
    """
    rng = np.random.default_rng(0)
    shares = np.full(len(engine.blender.member_rows), 1.0 / len(engine.blender.member_rows))
    for slot, arena in enumerate(engine.weight_buffers):
        engine.refit(slot, shares)
        x, before = _run_smallest_input(signature, partial(engine.infer, slot))
        arena.flat *= rng.uniform(0.5, 1.5, arena.flat.shape).astype(np.float32)
        arena.flat += rng.uniform(0.0, 1e-3, arena.flat.shape).astype(np.float32)
        opened = runtime.open_optimized_session(runtime.bind_initializers(engine.layout.optimized, arena.views))
        expected = runtime.run_session(opened, x)
        if not np.isfinite(expected).all() or np.array_equal(expected, before):
            raise InPlaceUnsupportedError("changed weights give no usable output, so that their effect cannot be verified")
        if not np.array_equal(engine.infer(slot, x), expected):
            raise InPlaceUnsupportedError("ONNX Runtime does not see a change of its weights in place")
    engine.invalidate_weights()


def verify_each_weight(engine: InPlaceEngine, signature: Signature) -> Iterator[tuple[int, int]]:
    """Change each live weight of slot 0 alone and require another output; yields (done, total).

    One inference per weight: seconds for a large network. Raises InPlaceUnsupportedError naming the first weight without effect. Leaves slot 0 in
    need of a refit.
    """
    shares = np.full(len(engine.blender.member_rows), 1.0 / len(engine.blender.member_rows))
    engine.refit(0, shares)
    x, before = _run_smallest_input(signature, partial(engine.infer, 0))
    rng = np.random.default_rng(0)
    views = engine.weight_buffers[0].views
    for done, (name, view) in enumerate(views.items(), 1):
        kept = view.copy()
        size = max(float(np.abs(kept).max()), 1e-3)
        for strength in (0.5, 50.0):  # a dead channel may hide a gentle change
            view += (strength * size * rng.uniform(0.5, 1.0, view.shape)).astype(np.float32)
            changed = not np.array_equal(engine.infer(0, x), before)
            view[...] = kept
            if changed:
                break
        else:
            raise InPlaceUnsupportedError(f"changing the live weight {name!r} has no effect")
        yield done, len(views)


def _run_smallest_input(
    signature: Signature,
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    sides: Sequence[int] = VERIFICATION_SIDES_PX,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The smallest probe that the network accepts (reflection pads and strides ask for a minimum), and its output."""
    for side in sides[:-1]:
        x = make_verification_input(signature, side)
        try:
            return x, run(x)
        except EngineError:
            if signature.kind == "latent":
                raise
    x = make_verification_input(signature, sides[-1])
    return x, run(x)

"""Proof that an in-place engine computes the blend, and that every weight that it holds has an effect, before its first frame.

A slider that silently does nothing is the worst failure there is, and ONNX Runtime makes it easy: at its default options it
copies, folds or repacks the weights of a graph at load, and does not see what happens to the memory they came from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dni_deploy.blending.calibration_table import CalibrationTable, iterate_blended_tensors
from dni_deploy.errors import EngineError
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.engine import InPlaceEngine
from engines.onnxruntime_cpu.layout import InPlaceUnsupportedError
from engines.verification import MAX_RELATIVE_ERROR, VERIFICATION_SIDE_PX, make_verification_input, mixed_coefficients

log = logging.getLogger(__name__)

VERIFICATION_SIDES_PX = (4, 8, 16, 32, VERIFICATION_SIDE_PX)
"""Sides of the inputs that are tried, smallest first: one inference per weight should be cheap."""

CHANGE_PERIOD = 65521
"""A prime, so that no two rows of a weight change alike."""


def verify_engine(
    engine: InPlaceEngine,
    graph: onnx.ModelProto,
    members: Sequence[Mapping[str, NDArray[Any]]],
    signature: Signature,
    table: CalibrationTable | None = None,
) -> float:
    """Runs what every in-place engine has to pass before its first frame.

    Args:
        engine: The engine. Every slot needs a refit afterwards; it is closed where it fails.
        graph: The bundle's own graph.
        members: Each member's weights by name.
        signature: The network's signature.
        table: The bundle's calibration, if it has one.

    Returns:
        The blend's relative error.

    Raises:
        InPlaceUnsupportedError: The engine computes something else, or does not see a change of its weights.
    """
    try:
        error = verify_blend(engine, graph, members, signature, table)
        verify_weight_effect(engine, signature)
    except BaseException:
        engine.close()
        raise
    log.info("engine %s verified: relative error %.1e, %.0e allowed", engine.name, error, MAX_RELATIVE_ERROR["fp32"])
    return error


def verify_blend(
    engine: InPlaceEngine,
    graph: onnx.ModelProto,
    members: Sequence[Mapping[str, NDArray[Any]]],
    signature: Signature,
    table: CalibrationTable | None = None,
) -> float:
    """Compares a mixed blend with a session on the bundle's own graph with float64-blended weights.

    That session runs the graph as it is, without any optimization. Where its output differs, a stock session decides.

    Args:
        engine: The engine; slot 0 is left refitted.
        graph: As in `verify_engine`.
        members: As in `verify_engine`.
        signature: As in `verify_engine`.
        table: As in `verify_engine`.

    Returns:
        The relative error.

    Raises:
        InPlaceUnsupportedError: The error is above MAX_RELATIVE_ERROR["fp32"].
    """
    coefficients = mixed_coefficients(len(members))
    weights = {
        name: tensor.astype(np.float32, order="C") for name, tensor in iterate_blended_tensors(members, coefficients, table)
    }
    engine.refit(0, coefficients)
    x, expected = _run_smallest_input(signature, runtime.InPlaceSession(graph, weights).run)
    error = relative_error(engine.infer(0, x), expected)
    if error > MAX_RELATIVE_ERROR["fp32"]:
        # InstanceNorm over a few pixels magnifies roundings: the same kernels and a larger input decide.
        stock = ort_session.open_cpu_session(ort_session.bind_initializers(graph, weights))
        x, expected = _run_smallest_input(signature, partial(ort_session.run_session, stock), VERIFICATION_SIDES_PX[-2:])
        error = relative_error(engine.infer(0, x), expected)
    if error <= MAX_RELATIVE_ERROR["fp32"]:
        return error
    raise InPlaceUnsupportedError(f"the blended optimized weights give another output than a rebuilt session, by {error:.1e}")


def verify_weight_effect(engine: InPlaceEngine, signature: Signature) -> None:
    """Changes every weight of every slot at once, and requires the bits of a session that was opened with those weights.

    One weight that the live session had copied, folded or repacked would keep its old value and change bits: this checks for
    every weight what `verify_each_weight` checks for one, in one run.

    Args:
        engine: The engine; every slot needs a refit afterwards.
        signature: The network's signature.

    Raises:
        InPlaceUnsupportedError: A change is not seen, or cannot be verified.
    """
    rng = np.random.default_rng(0)
    for slot, buffer in enumerate(engine.weight_buffers):
        _refit_equal_blend(engine, slot)
        x, before = _run_smallest_input(signature, partial(engine.infer, slot))
        _change_weights(buffer.flat, rng)
        expected = runtime.InPlaceSession(engine.optimized, buffer.views).run(x)
        if not np.isfinite(expected).all() or np.array_equal(expected, before):
            raise InPlaceUnsupportedError("changed weights give no usable output, so that their effect cannot be verified")
        if not np.array_equal(engine.infer(slot, x), expected):
            raise InPlaceUnsupportedError("ONNX Runtime does not see a change of its weights in place")
    engine.invalidate_weights()


def verify_each_weight(engine: InPlaceEngine, signature: Signature) -> Iterator[tuple[int, int]]:
    """Changes each weight of slot 0 alone and requires another output.

    One inference per weight: seconds for a large network.

    Args:
        engine: The engine; slot 0 needs a refit afterwards.
        signature: The network's signature.

    Yields:
        Number of weights done, and of all.

    Raises:
        InPlaceUnsupportedError: A weight has no effect; it is named.
    """
    _refit_equal_blend(engine, 0)
    x, before = _run_smallest_input(signature, partial(engine.infer, 0))
    rng = np.random.default_rng(0)
    views = engine.weight_buffers[0].views
    for done, (name, view) in enumerate(views.items(), 1):
        original = view.copy()
        scale = max(float(np.abs(original).max()), 1e-3)
        for strength in (0.5, 50.0):  # a dead channel may hide a small change
            view += (strength * scale * rng.uniform(0.5, 1.0, view.shape)).astype(np.float32)
            changed = not np.array_equal(engine.infer(0, x), before, equal_nan=True)
            view[...] = original
            if changed:
                break
        else:
            raise InPlaceUnsupportedError(f"changing the live weight {name!r} has no effect")
        yield done, len(views)


def _refit_equal_blend(engine: InPlaceEngine, slot: int) -> None:
    members = len(engine.blender.member_rows)
    engine.refit(slot, np.full(members, 1.0 / members))


def _change_weights(flat: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Changes every weight, by the same numbers again and again: to draw one for each would take longer than all the rest."""
    factors = rng.uniform(0.5, 1.5, CHANGE_PERIOD).astype(np.float32)
    offsets = rng.uniform(0.0, 1e-3, CHANGE_PERIOD).astype(np.float32)
    for start in range(0, flat.size, CHANGE_PERIOD):
        part = flat[start : start + CHANGE_PERIOD]
        part *= factors[: part.size]
        part += offsets[: part.size]


def _run_smallest_input(
    signature: Signature,
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    sides: Sequence[int] = VERIFICATION_SIDES_PX,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the smallest input that the network accepts (reflection pads and strides need a minimum), and its output."""
    for side in sides[:-1]:
        x = make_verification_input(signature, side)
        try:
            return x, run(x)
        except EngineError:
            if signature.kind == "latent":
                raise
    x = make_verification_input(signature, sides[-1])
    return x, run(x)

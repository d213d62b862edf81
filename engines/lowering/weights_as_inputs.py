"""Graphs that need no refit: the weights as inputs of a graph, or alpha as an input of a graph that blends by itself.

Both take a bundle's graph or a lowered one, in float32 or float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.errors import EngineError, escape_name

ALPHA_INPUT_NAME = "alpha"
"""The input of a graph that blends: float32 (1, N), the shares."""

CALIBRATION_INPUT_NAME = "knots"
"""The further input of one with re-estimated BatchNorm statistics: float32 (1, K), the shares of their knots."""


def weights_as_inputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy whose initializers of these names are inputs behind the picture, in the order of `names`, each in its type and shape."""
    copy, taken = _remove_initializers(model, names)
    copy.graph.input.extend(
        helper.make_tensor_value_info(name, taken[name].data_type, tuple(taken[name].dims)) for name in names
    )
    return copy


def alpha_as_input(
    model: onnx.ModelProto,
    names: Sequence[str],
    members: Sequence[Mapping[str, NDArray[Any]]],
    recalibrated_statistics: Mapping[str, NDArray[Any]] | None = None,
) -> onnx.ModelProto:
    """A copy with the members' values of these initializers inside, which blends them by an input `alpha`, float32 (1, N).

    Per weight one product of alpha and the members' rows (N, P), in float32 and then rounded to the weight's own type: in float16
    the shares themselves would be off by up to 5e-4, and alike for every weight. Holds N float32 copies of the weights, and blends
    at every frame. Every weight has to be linear in the members' (a bundle's graph, or lower_for_gpu with fold=False): BatchNorm's
    raw statistics are blended before anything is computed from them.
    known: weights that are blended by a second input, `knots`, float32 (1, K): a row for each knot, (K, ...) in any shape.
    """
    copy, taken = _remove_initializers(model, names)
    for reserved in (ALPHA_INPUT_NAME, CALIBRATION_INPUT_NAME) if recalibrated_statistics else (ALPHA_INPUT_NAME,):
        if any(reserved in (*node.input, *node.output) for node in copy.graph.node):
            raise EngineError(f"The graph already has a value named {reserved!r}, so that it cannot be the name of its input.")
    nodes, knots = [], 0
    for name in names:
        rows, shape, flat = f"{name}@members", f"{name}@shape", f"{name}@flat"
        by = ALPHA_INPUT_NAME
        if recalibrated_statistics is not None and name in recalibrated_statistics:
            by, knots = CALIBRATION_INPUT_NAME, len(recalibrated_statistics[name])
            stacked = np.asarray(recalibrated_statistics[name], np.float32).reshape(knots, -1)
        else:
            stacked = np.stack([np.asarray(tensors[name], np.float32).reshape(-1) for tensors in members])
        copy.graph.initializer.append(numpy_helper.from_array(stacked, rows))
        copy.graph.initializer.append(numpy_helper.from_array(np.array(taken[name].dims, np.int64), shape))
        nodes.append(helper.make_node("MatMul", [by, rows], [flat], name=flat))
        if taken[name].data_type != TensorProto.FLOAT:
            rounded = f"{name}@rounded"
            nodes.append(helper.make_node("Cast", [flat], [rounded], name=rounded, to=taken[name].data_type))
            flat = rounded
        nodes.append(helper.make_node("Reshape", [flat, shape], [name], name=f"{name}@blend"))
    nodes += list(copy.graph.node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    copy.graph.input.append(helper.make_tensor_value_info(ALPHA_INPUT_NAME, TensorProto.FLOAT, (1, len(members))))
    if knots:
        copy.graph.input.append(helper.make_tensor_value_info(CALIBRATION_INPUT_NAME, TensorProto.FLOAT, (1, knots)))
    return copy


def _remove_initializers(model: onnx.ModelProto, names: Sequence[str]) -> tuple[onnx.ModelProto, dict[str, TensorProto]]:
    """A copy without these initializers, and they."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wanted = set(names)
    taken = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in wanted}
    missing = [name for name in names if name not in taken]
    if missing:
        raise EngineError(f"The graph has no initializer {escape_name(missing[0])!r}.")
    kept = [tensor for tensor in copy.graph.initializer if tensor.name not in wanted]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy, taken

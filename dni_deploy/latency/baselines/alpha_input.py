"""A graph with alpha as an input, which holds the members and blends them by itself at every frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.errors import EngineError
from engines.lowering.weights_as_inputs import remove_initializers

ALPHA_INPUT_NAME = "alpha"
"""The further input: float32 (1, N), the coefficients."""


def alpha_as_input(
    model: onnx.ModelProto, names: Sequence[str], members: Sequence[Mapping[str, NDArray[Any]]]
) -> onnx.ModelProto:
    """Makes a copy of a graph that blends its weights by an input.

    Per weight one product of alpha (1, N) and the members' rows (N, P), in float32 and then rounded to the weight's own type:
    in float16 the coefficients themselves would be off by up to 5e-4, and alike for every weight. The copy holds N float32
    copies of the weights.

    Args:
        model: A bundle's graph, or a lowered one, float32 or float16, in which every weight is linear in the members'
            (`lower_for_gpu` with fold=False): BatchNorm's statistics are blended before anything is computed from them.
        names: The initializers to blend.
        members: Per member the values of these initializers, in any shape.

    Raises:
        EngineError: The graph lacks an initializer, or has a value of the input's name.
    """
    copy, removed = remove_initializers(model, names)
    if any(ALPHA_INPUT_NAME in (*node.input, *node.output) for node in copy.graph.node):
        raise EngineError(
            f"The graph already has a value named {ALPHA_INPUT_NAME!r}, so that it cannot be the name of its input."
        )
    nodes = []
    for name in names:
        rows, shape, flat = f"{name}@members", f"{name}@shape", f"{name}@flat"
        stacked = np.stack([np.asarray(tensors[name], np.float32).reshape(-1) for tensors in members])
        copy.graph.initializer.append(numpy_helper.from_array(stacked, rows))
        copy.graph.initializer.append(numpy_helper.from_array(np.array(removed[name].dims, np.int64), shape))
        nodes.append(helper.make_node("MatMul", [ALPHA_INPUT_NAME, rows], [flat], name=flat))
        if removed[name].data_type != TensorProto.FLOAT:
            rounded = f"{name}@rounded"
            nodes.append(helper.make_node("Cast", [flat], [rounded], name=rounded, to=removed[name].data_type))
            flat = rounded
        nodes.append(helper.make_node("Reshape", [flat, shape], [name], name=f"{name}@blend"))
    nodes += list(copy.graph.node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    copy.graph.input.append(helper.make_tensor_value_info(ALPHA_INPUT_NAME, TensorProto.FLOAT, (1, len(members))))
    return copy

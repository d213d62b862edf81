"""Constant nodes: initializers instead, so that every constant of the graph is found, and named, in one way."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from engines.lowering.graph_rewriter import Draft

NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def rewrite(draft: Draft) -> None:
    """Strings and sparse tensors stay nodes: nothing here computes with them."""
    nodes: list[onnx.NodeProto] = []
    for node in draft.nodes:
        tensor = _tensor(node) if node.op_type == "Constant" and not draft.outputs.intersection(node.output) else None
        if tensor is None:
            nodes.append(node)
        else:
            draft.constants[node.output[0]] = tensor
    draft.nodes = nodes


def _tensor(node: onnx.NodeProto) -> TensorProto | None:
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = node.output[0]
        return tensor
    if attribute.name not in NUMBERS:
        return None
    value = np.array(onnx.helper.get_attribute_value(attribute), NUMBERS[attribute.name])
    return numpy_helper.from_array(value, node.output[0])

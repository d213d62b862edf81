"""The pass that makes initializers of Constant nodes, so that every constant of the graph is found, and named, in one way."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.lowering.graph_rewriter import GraphRewriter

NUMBER_ATTRIBUTE_DTYPES = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def rewrite(rewriter: GraphRewriter) -> None:
    """Rewrites every Constant but strings and sparse tensors: nothing here computes with them."""

    def make_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        tensor = _make_tensor(node) if node.op_type == "Constant" and not rewriter.outputs.intersection(node.output) else None
        if tensor is None:
            return None
        rewriter.constants[node.output[0]] = tensor
        return []

    rewriter.replace_nodes(make_nodes)


def read_constant_nodes(graph: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Reads the value of every Constant node and every integer initializer, by name."""
    tensors = [_make_tensor(node) for node in graph.graph.node if node.op_type == "Constant"]
    integers = [tensor for tensor in graph.graph.initializer if tensor.data_type == TensorProto.INT64]
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in (*tensors, *integers) if tensor is not None}


def _make_tensor(node: onnx.NodeProto) -> TensorProto | None:
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = node.output[0]
        return tensor
    if attribute.name not in NUMBER_ATTRIBUTE_DTYPES:
        return None
    value = np.array(helper.get_attribute_value(attribute), NUMBER_ATTRIBUTE_DTYPES[attribute.name])
    return numpy_helper.from_array(value, node.output[0])

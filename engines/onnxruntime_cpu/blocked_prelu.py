"""PRelu put back into the optimized graph, on tensors that stay in the blocked layout.

The lowering writes PRelu as x + gain * relu(-x), gain = 1 - slope, because ONNX Runtime would leave its blocked layout for a
PRelu. What comes out of the optimizer are two depthwise convolutions, two passes over the activation. A blocked tensor (N, C,
H, W) lies in memory as (N, C / block, H, W, block); looked at as (N, C / block, H, W * block), which moves nothing, one PRelu
whose slopes are repeated W times does the same in one pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engines.lowering.graph_rewriter import read_attributes
from engines.onnxruntime_cpu.runtime import BLOCKED_DOMAIN


def restore_prelu(optimized: onnx.ModelProto, weight_names: Collection[str], block_size: int) -> int:
    """Replaces each pair of depthwise convolutions that is a PRelu.

    Args:
        optimized: The optimized graph; it is changed in place.
        weight_names: Initializers that are weights: a gain must be one of them.
        block_size: Number of channels that lie side by side in this machine's blocked layout.

    Returns:
        How many pairs there were.
    """
    graph = optimized.graph
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in weight_names}
    producers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        negated = producers.get(node.input[0]) if _is_gain_convolution(node, weight_names) else None
        if (
            negated is None
            or readers[negated.output[0]] != 1
            or negated.input[0] != node.input[3]
            or not _is_negated_relu(negated, constants)
        ):
            nodes.append(node)
            continue
        nodes.remove(negated)
        nodes += _make_prelu_nodes(graph, node, block_size)
        count += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def _is_gain_convolution(node: onnx.NodeProto, weight_names: Collection[str]) -> bool:
    """Requires a blocked depthwise convolution by a weight onto a sum: gain * relu(-x) + x."""
    return (
        _is_pointwise(node)
        and len(node.input) == 4
        and not node.input[2]
        and node.input[1] in weight_names
        and "activation" not in read_attributes(node)
    )


def _is_negated_relu(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Requires a blocked depthwise convolution by -1 with a Relu: relu(-x)."""
    weight = constants.get(node.input[1]) if len(node.input) == 2 else None
    return (
        _is_pointwise(node)
        and read_attributes(node).get("activation") == b"Relu"
        and weight is not None
        and bool(np.all(numpy_helper.to_array(weight) == -1))
    )


def _is_pointwise(node: onnx.NodeProto) -> bool:
    if node.op_type != "Conv" or node.domain != BLOCKED_DOMAIN:
        return False
    attributes = read_attributes(node)
    return attributes.get("kernel_shape") == [1, 1] and attributes.get("group", 1) > 1


def _make_prelu_nodes(graph: onnx.GraphProto, node: onnx.NodeProto, block: int) -> list[onnx.NodeProto]:
    x, gain, y = node.input[3], node.input[1], node.output[0]
    channels = read_attributes(node)["group"]
    groups = channels // block

    def add_integers(name: str, numbers: list[int]) -> str:
        name = f"{y}@{name}"
        graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), f"{y}@one"))
    return [
        helper.make_node("Sub", [f"{y}@one", gain], [f"{y}@slope"]),
        helper.make_node("Reshape", [f"{y}@slope", add_integers("blocked", [groups, 1, 1, block])], [f"{y}@slopes"]),
        helper.make_node("Shape", [x], [f"{y}@width"], start=3, end=4),
        helper.make_node(
            "Concat", [add_integers("groups", [groups, 1]), f"{y}@width", add_integers("block", [block])], [f"{y}@wide"], axis=0
        ),
        helper.make_node("Expand", [f"{y}@slopes", f"{y}@wide"], [f"{y}@expanded"]),
        helper.make_node("Reshape", [f"{y}@expanded", add_integers("row", [groups, 1, -1])], [f"{y}@rows"]),
        # In a Reshape, 0 keeps that dimension; -1 is what remains.
        helper.make_node("Reshape", [x, add_integers("split", [0, groups, 0, -1])], [f"{y}@x"]),
        helper.make_node("PRelu", [f"{y}@x", f"{y}@rows"], [f"{y}@y"]),
        helper.make_node("Reshape", [f"{y}@y", add_integers("joined", [0, channels, 0, -1])], [y]),
    ]

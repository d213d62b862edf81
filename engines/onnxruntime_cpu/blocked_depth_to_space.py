"""DepthToSpace on tensors that are still in the blocked layout, which moves whole blocks of channels instead of single numbers.

ONNX Runtime leaves its blocked layout for a DepthToSpace and then moves number by number. In mode DCR the channels of a pixel
lie together: a blocked tensor (N, C, H, W) lies in memory as (N, 2, 2, C / 4 / block, H, W, block), and one Transpose puts the
blocks where they belong.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engines.lowering.graph_rewriter import read_attributes
from engines.onnxruntime_cpu.runtime import BLOCKED_DOMAIN


def block_depth_to_space(optimized: onnx.ModelProto, block_size: int) -> int:
    """Moves the way out of the blocked layout behind each DepthToSpace of mode DCR whose results fill whole blocks.

    Args:
        optimized: The optimized graph; it is changed in place.
        block_size: Number of channels that lie side by side in this machine's blocked layout.

    Returns:
        How many there were.
    """
    graph = optimized.graph
    producers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input) + Counter(value.name for value in graph.output)
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        reorder = producers.get(node.input[0]) if _is_pixel_by_pixel(node) else None
        if reorder is None or not _is_reorder(reorder) or readers[reorder.output[0]] != 1:
            nodes.append(node)
            continue
        size = read_attributes(node)["blocksize"]
        channels = read_attributes(reorder)["channels"] // size**2
        if channels % block_size:
            nodes.append(node)
            continue
        nodes.remove(reorder)
        nodes += _make_nodes(graph, reorder.input[0], node.output[0], channels, size, block_size)
        count += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def _is_pixel_by_pixel(node: onnx.NodeProto) -> bool:
    return node.op_type == "DepthToSpace" and read_attributes(node).get("mode", b"DCR") == b"DCR"


def _is_reorder(node: onnx.NodeProto) -> bool:
    return (
        node.op_type == "ReorderOutput" and node.domain == BLOCKED_DOMAIN and read_attributes(node).get("channels_last", 0) == 0
    )


def _make_nodes(graph: onnx.GraphProto, x: str, y: str, channels: int, size: int, block: int) -> list[onnx.NodeProto]:
    def add_integers(name: str, numbers: list[int]) -> str:
        name = f"{y}@{name}"
        graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    # In a Reshape, 0 keeps that dimension.
    before = [add_integers("pixels", [0, size, size, channels // block]), f"{y}@sides", add_integers("block", [block])]
    after = [add_integers("channels", [0, channels]), f"{y}@larger"]
    return [
        helper.make_node("Shape", [x], [f"{y}@sides"], start=2, end=4),
        helper.make_node("Mul", [f"{y}@sides", add_integers("factor", [size])], [f"{y}@larger"]),
        helper.make_node("Concat", before, [f"{y}@split"], axis=0),
        helper.make_node("Concat", after, [f"{y}@joined"], axis=0),
        helper.make_node("Reshape", [x, f"{y}@split"], [f"{y}@apart"]),
        helper.make_node("Transpose", [f"{y}@apart"], [f"{y}@in order"], perm=[0, 3, 4, 1, 5, 2, 6]),
        helper.make_node("Reshape", [f"{y}@in order", f"{y}@joined"], [f"{y}@blocked"]),
        helper.make_node("ReorderOutput", [f"{y}@blocked"], [y], domain=BLOCKED_DOMAIN, channels=channels),
    ]

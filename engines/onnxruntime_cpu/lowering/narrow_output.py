"""A convolution with few outputs: four output pixels at once, as a convolution of stride 2 with four times the outputs.

The blocked layout computes 16 outputs where a network's last layer wants 3, and throws 13 away. The same numbers come from a kernel that is
one row and one column larger, moves in steps of two pixels, and has an output for each of the four pixels of a step; DepthToSpace
puts them in their places. That costs (k + 1)^2 / (4 k^2) of the work: 0.31 for the 9 x 9 layer of TransformerNet, 0.33 for the
7 x 7 of CycleGAN. Each weight is copied four times, so it stays linear; the rest of the larger kernel is zero.

Only behind a Pad: elsewhere the input lies in the blocked layout, and asking for its size would reorder it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from engines.lowering.graph_rewriter import GraphRewriter
from engines.onnxruntime_cpu import runtime

OUTPUT_STEP = 2


def rewrite(rewriter: GraphRewriter) -> None:
    nodes: list[onnx.NodeProto] = []
    consumers, producers = rewriter.count_consumers(), rewriter.find_producers()
    for node in rewriter.nodes:
        before = producers.get(node.input[0]) if node.op_type == "Conv" else None
        own = [name for name in node.input[1:] if name]
        written = {name for fold in rewriter.recipes.folds for name in (fold.weight, fold.bias)}
        if (
            before is None
            or before.op_type != "Pad"
            or any(name not in rewriter.recipes.linear or consumers[name] != 1 or name in written for name in own)
            or not _is_narrow(rewriter, node)
        ):
            nodes.append(node)
            continue
        nodes += _make_strided_nodes(rewriter, node, own)
    rewriter.nodes = nodes


def _is_narrow(rewriter: GraphRewriter, node: onnx.NodeProto) -> bool:
    """Square steps of one pixel, one group, a kernel larger than one pixel, and room for four times the outputs in one block."""
    outputs, inputs, *kernel = rewriter.recipes.linear[node.input[1]].shape
    plain: dict[str, list[int] | list[bytes]] = {
        "group": [1], "strides": [1, 1], "dilations": [1, 1], "auto_pad": [b"NOTSET"],
    }  # fmt: skip
    return (
        len(kernel) == 2
        and min(kernel) > 1
        and runtime.can_block_channels(inputs)
        and outputs * OUTPUT_STEP * OUTPUT_STEP <= runtime.measure_block_size()
        and all(_read_attribute(node, name, default) == default for name, default in plain.items())
    )


def _read_attribute(node: onnx.NodeProto, name: str, default: list[int] | list[bytes]) -> list[int] | list[bytes]:
    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return list(value) if isinstance(value, list | tuple) else [value]
    return default


def _make_strided_nodes(rewriter: GraphRewriter, node: onnx.NodeProto, own: list[str]) -> list[onnx.NodeProto]:
    x, y = node.input[0], node.output[0]
    outputs, inputs, height, width = rewriter.recipes.linear[own[0]].shape
    for name in own:
        recipe = rewriter.recipes.linear[name]
        larger = (outputs * OUTPUT_STEP**2, inputs, height + 1, width + 1) if name == own[0] else (outputs * OUTPUT_STEP**2,)
        rewriter.recipes.linear[name] = replace(recipe, shape=larger, step=OUTPUT_STEP)
    top, left, bottom, right = (int(number) for number in _read_attribute(node, "pads", [0, 0, 0, 0]))
    # With an odd size the last step reaches one pixel further, and what it computes there is cut off again.
    pads = [top, left, bottom + 1, right + 1]
    growth = np.array([top + bottom - height + 1, left + right - width + 1], np.int64)
    kernel = [height + 1, width + 1]
    return [
        helper.make_node(
            "Conv", [x, *own], [f"{y}@steps"], name=y, kernel_shape=kernel, pads=pads, strides=[OUTPUT_STEP, OUTPUT_STEP]
        ),
        helper.make_node("DepthToSpace", [f"{y}@steps"], [f"{y}@whole"], blocksize=OUTPUT_STEP, mode="CRD"),
        helper.make_node("Shape", [x], [f"{y}@input"], start=2, end=4),
        helper.make_node("Add", [f"{y}@input", rewriter.add_constant(f"{y}@growth", growth)], [f"{y}@size"]),
        helper.make_node(
            "Slice",
            [
                f"{y}@whole",
                rewriter.add_constant("from the first", np.zeros(2, np.int64)),
                f"{y}@size",
                rewriter.add_constant("height and width", np.array([2, 3], np.int64)),
            ],
            [y],
        ),
    ]

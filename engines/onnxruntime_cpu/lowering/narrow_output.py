"""The pass that lets a convolution with few outputs compute four pixels at once: stride 2 and four times the outputs.

The blocked layout computes 16 outputs where a network's last layer wants 3, and throws 13 away. The same numbers come from a
kernel that is one row and one column larger, moves in steps of two pixels, and has an output for each of the four pixels of a
step; DepthToSpace puts the pixels in order. That costs (k + 1)^2 / (4 k^2) of the work: 0.31 for the 9 x 9 layer of
TransformerNet, 0.33 for the 7 x 7 of CycleGAN. Each weight is copied four times, so it stays linear; the rest of the larger
kernel is zero.

Only behind a Pad: elsewhere the input lies in the blocked layout, and reading its size would reorder it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from engines.lowering.graph_rewriter import GraphRewriter, is_dense_convolution, read_attributes
from engines.onnxruntime_cpu import runtime

OUTPUT_STEP = 2
"""Output pixels per step, in both directions."""


def rewrite(rewriter: GraphRewriter) -> None:
    """Rewrites each convolution behind a Pad that has weights of its own and few outputs."""
    consumers, producers = rewriter.count_consumers(), rewriter.find_producers()

    def make_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        before = producers.get(node.input[0]) if is_dense_convolution(node) else None
        if (
            before is None
            or before.op_type != "Pad"
            or not rewriter.has_own_weights(node, consumers)
            or not _is_narrow(rewriter, node)
        ):
            return None
        return _make_strided_nodes(rewriter, node, [name for name in node.input[1:] if name])

    rewriter.replace_nodes(make_nodes)


def _is_narrow(rewriter: GraphRewriter, node: onnx.NodeProto) -> bool:
    """Requires a kernel above one pixel, and room for four times the outputs in a block."""
    outputs, inputs, *kernel = rewriter.recipes.linear[node.input[1]].shape
    return (
        len(kernel) == 2
        and min(kernel) > 1
        and runtime.can_block_channels(inputs)
        and outputs * OUTPUT_STEP * OUTPUT_STEP <= runtime.measure_block_size()
    )


def _make_strided_nodes(rewriter: GraphRewriter, node: onnx.NodeProto, weights: list[str]) -> list[onnx.NodeProto]:
    x, y = node.input[0], node.output[0]
    outputs, inputs, height, width = rewriter.recipes.linear[weights[0]].shape
    for name in weights:
        recipe = rewriter.recipes.linear[name]
        larger = (
            (outputs * OUTPUT_STEP**2, inputs, height + 1, width + 1) if name == weights[0] else (outputs * OUTPUT_STEP**2,)
        )
        rewriter.recipes.linear[name] = replace(recipe, shape=larger, step=OUTPUT_STEP)
    top, left, bottom, right = read_attributes(node).get("pads", (0, 0, 0, 0))
    # With an odd size the last step reaches one pixel further, and what it computes there is cut off again.
    pads = [top, left, bottom + 1, right + 1]
    growth = np.array([top + bottom - height + 1, left + right - width + 1], np.int64)
    kernel = [height + 1, width + 1]
    return [
        helper.make_node(
            "Conv", [x, *weights], [f"{y}@steps"], name=y, kernel_shape=kernel, pads=pads, strides=[OUTPUT_STEP, OUTPUT_STEP]
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

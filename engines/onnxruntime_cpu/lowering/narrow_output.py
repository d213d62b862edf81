"""The pass that lets a convolution with few outputs compute several pixels at once: larger steps and as many more outputs.

The blocked layout computes 16 outputs where a network's last layer wants 3, and throws 13 away. The same numbers come from a
kernel that moves in steps of 2 x 2 or 4 x 4 pixels, is larger by one step less a pixel, and has an output for each pixel of a
step; DepthToSpace puts the pixels in order. In TransformerNet's 9 x 9 layer, 16 pixels at once cost 0.33 of the work. Four cost 0.31,
but in a single block of outputs, so that each pixel that is loaded is used once. Each weight is copied once per pixel of a step,
so it stays linear; the rest of the larger kernel is zero.

Only behind a Pad: elsewhere the input lies in the blocked layout, and reading its size would reorder it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from engines.lowering.graph_rewriter import GraphRewriter, is_dense_convolution, read_attributes
from engines.onnxruntime_cpu import runtime

OUTPUT_STEP, LARGE_OUTPUT_STEP = 2, 4
"""Output pixels per step, in both directions."""

MIN_LARGE_STEP_KERNEL_PX, MAX_LARGE_STEP_BLOCKS = 7, 3
"""Where the large step takes less time: by 13 to 19 % for 3 outputs and kernels of 7 x 7 and 9 x 9, with AVX-512. With 4 outputs or
a kernel of 3 x 3 it gains nothing."""


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
        and outputs * OUTPUT_STEP**2 <= runtime.measure_block_size()
    )


def _choose_step(outputs: int, height: int, width: int) -> int:
    fits = outputs * LARGE_OUTPUT_STEP**2 <= MAX_LARGE_STEP_BLOCKS * runtime.measure_block_size()
    return LARGE_OUTPUT_STEP if fits and min(height, width) >= MIN_LARGE_STEP_KERNEL_PX else OUTPUT_STEP


def _make_strided_nodes(rewriter: GraphRewriter, node: onnx.NodeProto, weights: list[str]) -> list[onnx.NodeProto]:
    x, y = node.input[0], node.output[0]
    outputs, inputs, height, width = rewriter.recipes.linear[weights[0]].shape
    step = _choose_step(outputs, height, width)
    kernel = [height + step - 1, width + step - 1]
    for name in weights:
        shape = (outputs * step**2, inputs, *kernel) if name == weights[0] else (outputs * step**2,)
        rewriter.recipes.linear[name] = replace(rewriter.recipes.linear[name], shape=shape, step=step)
    top, left, bottom, right = read_attributes(node).get("pads", (0, 0, 0, 0))
    # Where the size is no multiple, the last step reaches further, and what it computes there is cut off again.
    pads = [top, left, bottom + step - 1, right + step - 1]
    growth = np.array([top + bottom - height + 1, left + right - width + 1], np.int64)
    return [
        helper.make_node("Conv", [x, *weights], [f"{y}@steps"], name=y, kernel_shape=kernel, pads=pads, strides=[step, step]),
        helper.make_node("DepthToSpace", [f"{y}@steps"], [f"{y}@whole"], blocksize=step, mode="CRD"),
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

"""The pass that moves a 3 x 3 convolution from behind a nearest-neighbor enlargement by 2 to before it.

Three enlarged rows hold two rows of the smaller image, so that an output row needs two taps and not three: the first and the sum
of the others, or the other way round. One 2 x 2 convolution with an output for each of the four pixels computes them all, and
DepthToSpace puts the pixels in order, pixel by pixel and not channel by channel, so that it can be done in the blocked layout
(blocked_depth_to_space.py). That costs 4/9 of the work, and no enlarged image is written. A tap is a sum of weights, so it stays
linear.

Only behind a Pad by reflection: of an enlarged image it gives what repeating the edge of the smaller one does. With zeros around
the enlarged image, as in RRDBNet, this would need a border of half a pixel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from engines.lowering.graph_rewriter import GraphRewriter, is_dense_convolution, read_attributes
from engines.lowering.recipes import UPSAMPLE_FACTOR
from engines.onnxruntime_cpu import runtime

UPSAMPLE_SCALES = np.array([1, 1, UPSAMPLE_FACTOR, UPSAMPLE_FACTOR], np.float32)

ONE_PIXEL = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
"""Padding of one pixel on each side, as Pad takes it."""


def rewrite(rewriter: GraphRewriter) -> None:
    """Rewrites each Resize, Pad and convolution of this kind that nothing else reads, with weights that nothing else reads."""
    consumers, producers = rewriter.count_consumers(), rewriter.find_producers()

    def make_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        pad = producers.get(node.input[0]) if is_dense_convolution(node) else None
        resize = None if pad is None else producers.get(pad.input[0])
        if (
            pad is None
            or resize is None
            or any(consumers[before.output[0]] != 1 for before in (pad, resize))
            or not _is_upsample(rewriter, resize)
            or not _is_reflection(rewriter, pad)
            or not rewriter.has_own_weights(node, consumers)
            or not _can_sum_taps(rewriter, node)
        ):
            return None
        return _make_nodes(rewriter, resize.input[0], node)

    rewriter.replace_nodes(make_nodes)


def _is_upsample(rewriter: GraphRewriter, node: onnx.NodeProto) -> bool:
    """Requires that pixel i of the result is pixel i // 2, for height and width alone."""
    attributes = read_attributes(node)
    expected = {"mode": b"nearest", "nearest_mode": b"floor", "coordinate_transformation_mode": b"asymmetric"}
    return (
        node.op_type == "Resize"
        and "axes" not in attributes
        and all(attributes.get(name) == value for name, value in expected.items())
        and _reads_constant(rewriter, node, 2, UPSAMPLE_SCALES)
    )


def _is_reflection(rewriter: GraphRewriter, node: onnx.NodeProto) -> bool:
    """Requires a reflection of one pixel on each side."""
    return (
        node.op_type == "Pad"
        and read_attributes(node).get("mode") == b"reflect"
        and len(node.input) < 4  # axes
        and _reads_constant(rewriter, node, 1, ONE_PIXEL)
    )


def _reads_constant(rewriter: GraphRewriter, node: onnx.NodeProto, position: int, expected: NDArray[np.generic]) -> bool:
    constant = rewriter.get_constant(node.input[position]) if len(node.input) > position else None
    return constant is not None and np.array_equal(constant, expected)


def _can_sum_taps(rewriter: GraphRewriter, node: onnx.NodeProto) -> bool:
    """Requires a 3 x 3 kernel without padding of its own, and input channels that fill blocks."""
    _, inputs, *kernel = rewriter.recipes.linear[node.input[1]].shape
    pads = read_attributes(node).get("pads", [0, 0, 0, 0])
    return kernel == [3, 3] and not any(pads) and runtime.can_block_channels(inputs)


def _make_nodes(rewriter: GraphRewriter, x: str, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    y, weights = node.output[0], [name for name in node.input[1:] if name]
    for name in weights:
        outputs, *kernel = rewriter.recipes.linear[name].shape
        shape = (outputs * UPSAMPLE_FACTOR**2, *kernel[:1], *[2] * len(kernel[1:]))
        rewriter.recipes.linear[name] = replace(rewriter.recipes.linear[name], shape=shape, before_upsample=True)
    return [
        helper.make_node("Pad", [x, rewriter.add_constant("one pixel", ONE_PIXEL)], [f"{y}@padded"], mode="edge"),
        helper.make_node("Conv", [f"{y}@padded", *weights], [f"{y}@pixels"], name=y, kernel_shape=[2, 2]),
        helper.make_node("DepthToSpace", [f"{y}@pixels"], [f"{y}@whole"], blocksize=UPSAMPLE_FACTOR, mode="DCR"),
        # The repeated edge has been enlarged too.
        helper.make_node(
            "Slice",
            [
                f"{y}@whole",
                rewriter.add_constant("from the second", np.ones(2, np.int64)),
                rewriter.add_constant("to the last but one", np.full(2, -1, np.int64)),
                rewriter.add_constant("height and width", np.array([2, 3], np.int64)),
            ],
            [y],
        ),
    ]

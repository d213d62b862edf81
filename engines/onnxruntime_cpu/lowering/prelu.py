"""The pass that writes PRelu as x + (1 - s) * relu(-x), with two depthwise convolutions.

PRelu throws ONNX Runtime out of its blocked layout: a reorder before and one after every activation. This form stays
inside; the first convolution (by -1) takes the Relu with it and the second the Add, so the activation is passed twice. For
x < 0 it gives x - (1 - s) * x, which is s * x to within one rounding of x. It is linear in the slope s.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from engines.lowering.graph_rewriter import GraphRewriter
from engines.lowering.recipes import LinearRecipe
from engines.onnxruntime_cpu import runtime


def rewrite(rewriter: GraphRewriter) -> None:
    """Rewrites each PRelu whose slopes are a weight and whose channels can stay in the blocked layout."""
    producers = rewriter.find_producers()

    def make_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        slope = _find_slope(rewriter, node, producers)
        channels = rewriter.channels.get(node.input[0], 0) if slope else 0
        if slope is None or not runtime.can_block_channels(channels):
            return None
        x, y = node.input[0], node.output[0]
        minus_one = rewriter.add_constant(f"times -1.0 x{channels}", np.full((channels, 1, 1, 1), -1, np.float32))
        gain = f"{slope}@gain x{channels}"  # one slope may serve activations of several widths
        rewriter.recipes.linear[gain] = LinearRecipe(slope, (channels, 1, 1, 1), factor=-1.0, offset=1.0)
        return [
            rewriter.make_depthwise_node(x, minus_one, None, f"{y}@negated", channels),
            helper.make_node("Relu", [f"{y}@negated"], [f"{y}@negative"], name=f"{y}@negative"),
            rewriter.make_depthwise_node(f"{y}@negative", gain, None, f"{y}@bend", channels),
            helper.make_node("Add", [f"{y}@bend", x], [y], name=y),
        ]

    rewriter.replace_nodes(make_nodes)


def _find_slope(rewriter: GraphRewriter, node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> str | None:
    """Finds the weight that holds the slopes, one per channel or one for all, looking through a Reshape."""
    if node.op_type != "PRelu":
        return None
    name = node.input[1]
    through = producers.get(name)
    if through is not None and through.op_type in ("Reshape", "Unsqueeze"):
        name = through.input[0]
    recipe = rewriter.recipes.linear.get(name)
    if recipe is None:
        return None
    size = int(np.prod(recipe.shape))
    return name if size in (1, rewriter.channels.get(node.input[0])) else None

"""The pass that takes a Mul by a constant scalar into the convolution before it, or makes it a depthwise convolution.

A residual scaling such as RRDBNet's `0.2 *` makes ONNX Runtime leave its blocked layout and come back: two reorders of the
whole activation. A constant factor is linear, so it may go into the weights; where no convolution stands before it, a
depthwise one stays inside the layout and takes the following Add with it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from engines.lowering.graph_rewriter import GraphRewriter
from engines.onnxruntime_cpu import runtime


def rewrite(rewriter: GraphRewriter) -> None:
    """Rewrites each Mul by a finite float32 scalar where a convolution or the blocked layout can take it."""
    nodes: list[onnx.NodeProto] = []
    consumers, producers = rewriter.count_consumers(), rewriter.find_producers()
    for node in rewriter.nodes:
        factor, x = _find_factor(rewriter, node)
        if factor is None:
            nodes.append(node)
            continue
        before = producers.get(x)
        if (
            before is not None
            and before.op_type in ("Conv", "ConvTranspose")
            and before in nodes
            and consumers[x] == 1
            and all(name in rewriter.recipes.linear and consumers[name] == 1 for name in before.input[1:])
        ):
            _scale_weights(rewriter, before, factor)
            scaled = helper.make_node(before.op_type, list(before.input), list(node.output), name=before.name)
            scaled.attribute.extend(before.attribute)
            nodes[nodes.index(before)] = scaled
            producers[node.output[0]] = scaled
        elif runtime.can_block_channels(channels := rewriter.channels.get(x, 0)):
            weight = rewriter.add_constant(f"times {factor!r} x{channels}", np.full((channels, 1, 1, 1), factor, np.float32))
            nodes.append(rewriter.make_depthwise_node(x, weight, None, node.output[0], channels))
        else:
            nodes.append(node)
    rewriter.nodes = nodes


def _scale_weights(rewriter: GraphRewriter, convolution: onnx.NodeProto, factor: float) -> None:
    recipes = rewriter.recipes
    for name in convolution.input[1:]:
        recipe = recipes.linear[name]
        recipes.linear[name] = replace(recipe, factor=recipe.factor * factor, offset=recipe.offset * factor)
    recipes.folds = [
        replace(fold, factor=fold.factor * factor) if fold.weight == convolution.input[1] else fold for fold in recipes.folds
    ]


def _find_factor(rewriter: GraphRewriter, node: onnx.NodeProto) -> tuple[float | None, str]:
    """Returns the constant scalar of a Mul and the name of its other input; None where the node is not of that kind."""
    if node.op_type == "Mul":
        for scalar, x in (node.input, reversed(node.input)):
            value = rewriter.get_constant(scalar)
            if value is not None and value.size == 1 and value.ndim <= 4 and value.dtype == np.float32:
                factor = float(value.reshape(-1)[0])
                if math.isfinite(factor):
                    return factor, x
    return None, ""

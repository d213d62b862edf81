"""The pass that folds BatchNormalization into the convolution before it, or makes it a scale and a shift of its own.

Stock fusion multiplies the weights once, at load; blending such weights is wrong by 0.5 to 9 %, because gamma / sqrt(var + eps)
is not linear. Here the fold is a recipe that is computed again from the blended tensors at every change.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from engines.lowering.graph_rewriter import GraphRewriter, read_attributes
from engines.lowering.recipes import BatchNormFold, LinearRecipe

OUTPUT_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
"""Axis of the output channels in the weight, by operator."""

StandaloneBuilder = Callable[[GraphRewriter, onnx.NodeProto, str, str, int], tuple[list[onnx.NodeProto], int]]
"""Takes (rewriter, BatchNormalization, scale, shift, channels) and adds recipes of the two weights. Returns the nodes that
apply them, and the axis of channels in the scale; no nodes where it cannot."""


def build_depthwise_scale(
    rewriter: GraphRewriter, node: onnx.NodeProto, scale: str, shift: str, channels: int
) -> tuple[list[onnx.NodeProto], int]:
    """Builds a depthwise 1x1 convolution, which ONNX Runtime keeps in its blocked layout on the CPU, as a `StandaloneBuilder`.

    Returns:
        The node and the axis; no nodes for a value that is not four-dimensional.
    """
    if rewriter.channels.get(node.input[0]) != channels:
        return [], 0
    rewriter.recipes.linear[scale] = LinearRecipe(None, (channels, 1, 1, 1), offset=1.0)
    rewriter.recipes.linear[shift] = LinearRecipe(None, (channels,))
    return [rewriter.make_depthwise_node(node.input[0], scale, shift, node.output[0], channels)], 0


def build_elementwise_scale(
    rewriter: GraphRewriter, node: onnx.NodeProto, scale: str, shift: str, channels: int
) -> tuple[list[onnx.NodeProto], int]:
    """Builds Mul and Add, which a GPU's compiler fuses with their neighbors; a depthwise convolution it would run by itself.

    Returns:
        The nodes and the axis, as a `StandaloneBuilder`; no nodes where the rank is unknown.
    """
    rank = len(rewriter.shapes.get(node.input[0], ()))
    if rank < 2:
        return [], 0
    shape = (1, channels, *[1] * (rank - 2))
    rewriter.recipes.linear[scale] = LinearRecipe(None, shape, offset=1.0)
    rewriter.recipes.linear[shift] = LinearRecipe(None, shape)
    x, y = node.input[0], node.output[0]
    scaled = f"{y}@scaled"
    nodes = [
        helper.make_node("Mul", [x, scale], [scaled], name=scaled),
        helper.make_node("Add", [scaled, shift], [y], name=f"{y}@shifted"),
    ]
    return nodes, 1


def rewrite(rewriter: GraphRewriter, build_standalone: StandaloneBuilder = build_depthwise_scale) -> None:
    """Rewrites each BatchNormalization whose statistics are the family's.

    Args:
        rewriter: The graph.
        build_standalone: Builds what replaces a BatchNormalization without a convolution to go into; where it cannot, the node
            stays.
    """
    nodes: list[onnx.NodeProto] = []
    consumers, producers = rewriter.count_consumers(), rewriter.find_producers()
    for node in rewriter.nodes:
        statistics = (
            _find_statistics(rewriter, node) if node.op_type == "BatchNormalization" and len(node.output) == 1 else None
        )
        if statistics is None:
            nodes.append(node)
            continue
        x, mean = node.input[0], node.input[3]
        epsilon = read_attributes(node).get("epsilon", 1e-5)
        channels = rewriter.recipes.linear[mean].shape[0]
        # By the node too: a BatchNorm that the network uses twice is folded twice, into different convolutions.
        bias = f"{mean}@shift of {node.output[0]}"
        before = producers.get(x)
        if before is not None and _can_fold(rewriter, before, consumers):
            weight = before.input[1]
            own_bias = _find_family_tensor(rewriter, before.input[2]) if len(before.input) > 2 and before.input[2] else None
            axis = OUTPUT_CHANNEL_AXIS[before.op_type]
            folded = helper.make_node(before.op_type, [before.input[0], weight, bias], [node.output[0]], name=before.name)
            folded.attribute.extend(before.attribute)
            nodes[nodes.index(before)] = folded
            rewriter.recipes.linear[bias] = LinearRecipe(None, (channels,))
        else:
            weight, own_bias = f"{mean}@scale of {node.output[0]}", None
            standalone, axis = build_standalone(rewriter, node, weight, bias, channels)
            if not standalone:
                nodes.append(node)  # it reads the raw blended tensors, which is exact
                continue
            nodes += standalone
        rewriter.recipes.folds.append(BatchNormFold(weight, axis, bias, *statistics, epsilon, own_bias))
    rewriter.nodes = nodes


def _find_statistics(rewriter: GraphRewriter, node: onnx.NodeProto) -> tuple[str | None, str | None, str, str] | None:
    """Finds the family's gamma, beta, mean and variance. A constant gamma of ones or beta of zeros counts as none."""
    gamma, beta, mean, variance = (_find_family_tensor(rewriter, name) for name in node.input[1:])
    if mean is None or variance is None:
        return None
    for name, source, neutral in ((node.input[1], gamma, 1.0), (node.input[2], beta, 0.0)):
        constant = rewriter.get_constant(name)
        if source is None and (constant is None or not np.array_equal(constant, np.full(constant.shape, neutral))):
            return None
    return gamma, beta, mean, variance


def _find_family_tensor(rewriter: GraphRewriter, name: str) -> str | None:
    """Returns the tensor that a one-dimensional weight is a plain copy of, or None."""
    recipe = rewriter.recipes.linear.get(name)
    return recipe.source if recipe is not None and recipe == LinearRecipe(recipe.source, recipe.shape[:1]) else None


def _can_fold(rewriter: GraphRewriter, before: onnx.NodeProto, consumers: dict[str, int]) -> bool:
    """Requires a convolution that nothing else reads, with weights of its own, and groups only where rows are channels."""
    if before.op_type not in OUTPUT_CHANNEL_AXIS or consumers[before.output[0]] != 1:
        return False
    if before.op_type == "ConvTranspose" and read_attributes(before).get("group", 1) != 1:
        return False
    own = [name for name in before.input[1:] if name]
    return all(name in rewriter.recipes.linear and consumers[name] == 1 for name in own) and all(
        _find_family_tensor(rewriter, name) is not None for name in own[1:]
    )

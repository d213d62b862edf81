"""BatchNormalization: folded into the convolution before it, or a depthwise convolution of its own.

Stock fusion multiplies the weights once, at load; blending such weights is wrong by 0.5 to 9 %, because gamma /
sqrt(var + eps) is not linear. Here the fold is a recipe that is computed again from the blended tensors at every change.
"""

from __future__ import annotations

import onnx
from onnx import helper

from engines.lowering.draft import Draft
from engines.recipes import Fold, Linear

OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1}


def rewrite(draft: Draft) -> None:
    nodes: list[onnx.NodeProto] = []
    consumers, producers = draft.consumers(), draft.producers()
    for node in draft.nodes:
        if node.op_type != "BatchNormalization" or not _has_weights(draft, node):
            nodes.append(node)
            continue
        x, gamma, beta, mean, variance = node.input
        statistics = {
            "gamma": gamma, "beta": beta, "mean": mean, "variance": variance,
            "epsilon": next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5),
        }  # fmt: skip
        channels = draft.recipes.linear[mean].shape[0]
        # By the node too: a BatchNorm that the network uses twice is folded twice, into different convolutions.
        bias = f"{mean}@shift of {node.output[0]}"
        before = producers.get(x)
        if before is not None and _can_fold(draft, before, consumers):
            weight = before.input[1]
            own_bias = before.input[2] if len(before.input) > 2 else None
            axis = OUTPUT_AXIS[before.op_type]
            folded = helper.make_node(before.op_type, [before.input[0], weight, bias], [node.output[0]], name=before.name)
            folded.attribute.extend(before.attribute)
            nodes[nodes.index(before)] = folded
        elif draft.channels.get(x) == channels:
            weight, own_bias, axis = f"{mean}@scale of {node.output[0]}", None, 0
            draft.recipes.linear[weight] = Linear(None, (channels, 1, 1, 1), offset=1.0)
            nodes.append(draft.depthwise(x, weight, bias, node.output[0], channels))
        else:
            nodes.append(node)  # not a picture: ONNX Runtime's own node reads the raw blended tensors, which is exact
            continue
        draft.recipes.linear[bias] = Linear(None, (channels,))
        draft.recipes.folds.append(Fold(weight, axis, bias, **statistics, convolution_bias=own_bias))
    draft.nodes = nodes


def _has_weights(draft: Draft, node: onnx.NodeProto) -> bool:
    return all(name in draft.recipes.linear for name in node.input[1:]) and len(node.output) == 1


def _can_fold(draft: Draft, before: onnx.NodeProto, consumers: dict[str, int]) -> bool:
    """A convolution that nothing else reads, with weights that no other node shares, and groups only where rows are channels."""
    if before.op_type not in OUTPUT_AXIS or consumers[before.output[0]] != 1:
        return False
    if before.op_type == "ConvTranspose" and any(a.name == "group" and a.i != 1 for a in before.attribute):
        return False
    own = [name for name in before.input[1:] if name]
    return all(name in draft.recipes.linear and consumers[name] == 1 for name in own)

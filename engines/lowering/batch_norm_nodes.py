"""The pass that writes BatchNormalization as arithmetic on the raw tensors: exact, and computed at every frame.

For what no recipe covers, and for graphs that blend by themselves. A parser that finds constants in a BatchNormalization would
fold them under names of its own, so none may be left.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from dni_deploy.errors import EngineError, escape_name
from engines.lowering.graph_rewriter import GraphRewriter, read_attributes


def rewrite(rewriter: GraphRewriter) -> None:
    """Rewrites each: scale = gamma / sqrt(var + eps), shift = beta - mean * scale, y = x * scale + shift.

    Raises:
        EngineError: The rank of an input is unknown, or a parameter is computed in the graph.
    """
    rewriter.replace_nodes(
        lambda node: _make_arithmetic_nodes(rewriter, node) if node.op_type == "BatchNormalization" else None
    )


def _make_arithmetic_nodes(rewriter: GraphRewriter, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    x, y = node.input[0], node.output[0]
    rank = len(rewriter.shapes.get(x, ()))
    if rank < 2 or len(node.output) != 1:
        raise EngineError(
            f"The graph's BatchNormalization {escape_name(y)!r} has an input of unknown rank, or more than one output."
        )
    gamma, beta, mean, variance = (_reshape_along_channels(rewriter, name, rank) for name in node.input[1:])
    epsilon = read_attributes(node).get("epsilon", 1e-5)
    constant = rewriter.add_constant(f"epsilon {epsilon!r} of rank {rank}", np.full((1,) * rank, epsilon, np.float32))
    steps = [
        ("Add", [variance, constant], "sum"), ("Sqrt", [f"{y}@sum"], "root"), ("Div", [gamma, f"{y}@root"], "scale"),
        ("Mul", [mean, f"{y}@scale"], "moved"), ("Sub", [beta, f"{y}@moved"], "shift"), ("Mul", [x, f"{y}@scale"], "scaled"),
    ]  # fmt: skip
    return [
        *(helper.make_node(op, inputs, [f"{y}@{out}"], name=f"{y}@{out}") for op, inputs, out in steps),
        helper.make_node("Add", [f"{y}@scaled", f"{y}@shift"], [y], name=f"{y}@shifted"),
    ]


def _reshape_along_channels(rewriter: GraphRewriter, name: str, rank: int) -> str:
    """Returns another name of a tensor (C,) under which it lies along the channels: (1, C, 1, 1) for a frame."""
    along = f"{name}@along {rank}"
    recipe, constant = rewriter.recipes.linear.get(name), rewriter.get_constant(name)
    if recipe is not None:
        rewriter.recipes.linear[along] = replace(recipe, shape=(1, *recipe.shape, *[1] * (rank - 2)))
        return along
    if constant is None:
        raise EngineError(f"The graph computes {escape_name(name)!r}, a parameter of a BatchNormalization, by itself.")
    return rewriter.add_constant(along, constant.reshape(1, -1, *[1] * (rank - 2)))

"""The pass that gives weights the shape and layout in which they are used, with no node between.

An Identity, Cast, Reshape, Unsqueeze, Squeeze, Flatten or Transpose between a weight and its consumer is folded away at load
while weights are constants. Where they may change it would run at every frame, and TensorRT would take the convolution for one
whose kernel is computed. All of them only move elements, so they go into the recipe.

Weights and constants of elementwise operators get the rank of the result: TensorRT asks for equal ranks, and its parser would
put a Shuffle between, which a refittable engine cannot fold away either.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx

from engines.lowering.graph_rewriter import GraphRewriter, read_attributes
from engines.lowering.recipes import LinearRecipe

ELEMENTWISE_OPERATORS = frozenset(("Add", "Sub", "Mul", "Div", "PRelu", "Min", "Max"))


def rewrite(rewriter: GraphRewriter) -> None:
    """Rewrites every weight. It keeps its name in its first form; further forms of a weight get names of their own."""
    originals = dict(rewriter.recipes.linear)
    forms = dict(originals)
    forms_by_source: dict[str, list[LinearRecipe]] = defaultdict(list)
    names: dict[tuple[str, LinearRecipe], str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in rewriter.nodes:
        moved = _fold_mover(rewriter, node, forms, originals)
        if moved is not None:
            forms[node.output[0]] = moved
            continue
        nodes.append(node)
        rank = len(rewriter.shapes.get(node.output[0], ())) if node.op_type in ELEMENTWISE_OPERATORS else 0
        for position, value in enumerate(node.input):
            if value not in forms:
                node.input[position] = _get_constant_of_rank(rewriter, value, rank)
                continue
            form = replace(forms[value], shape=_pad_to_rank(forms[value].shape, rank))
            source = form.source
            assert source is not None  # no pass before this one makes weights of its own
            if form not in forms_by_source[source]:
                number = len(forms_by_source[source])
                forms_by_source[source].append(form)
                names[source, form] = source if number == 0 else f"{source}@form {number}"
            node.input[position] = names[source, form]
    rewriter.nodes = nodes
    rewriter.recipes.linear = {names[source, form]: form for source in originals for form in forms_by_source[source]}


def _fold_mover(
    rewriter: GraphRewriter, node: onnx.NodeProto, forms: dict[str, LinearRecipe], originals: dict[str, LinearRecipe]
) -> LinearRecipe | None:
    """Returns the form in which the node hands a weight on; None where the node does more than move elements."""
    recipe = forms.get(node.input[0]) if node.input else None
    if recipe is None or rewriter.outputs.intersection(node.output):
        return None
    attributes = read_attributes(node)
    if node.op_type == "Identity" or (node.op_type == "Cast" and attributes["to"] == onnx.TensorProto.FLOAT):
        return recipe
    if node.op_type == "Transpose":
        assert recipe.source is not None
        axes = tuple(attributes.get("perm", range(len(recipe.shape))[::-1]))
        return _transpose_recipe(recipe, axes, originals[recipe.source].shape)
    shape = _compute_moved_shape(rewriter, node, attributes, recipe.shape)
    return None if shape is None else replace(recipe, shape=shape)


def _compute_moved_shape(
    rewriter: GraphRewriter, node: onnx.NodeProto, attributes: dict[str, Any], shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    if node.op_type == "Flatten":
        axis = attributes.get("axis", 1)
        return prod(shape[:axis]), prod(shape[axis:])
    if node.op_type not in ("Reshape", "Unsqueeze", "Squeeze"):
        return None
    constant = rewriter.get_constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    if constant is None:  # computed in the graph, or a Squeeze of whatever is 1
        return tuple(size for size in shape if size != 1) if node.op_type == "Squeeze" and len(node.input) < 2 else None
    numbers = [int(number) for number in constant.reshape(-1)]
    if node.op_type == "Reshape":
        if not attributes.get("allowzero"):
            numbers = [shape[axis] if number == 0 else number for axis, number in enumerate(numbers)]
        rest = prod(number for number in numbers if number != -1)
        return tuple(prod(shape) // rest if number == -1 else number for number in numbers)
    if node.op_type == "Squeeze":
        removed = {number % len(shape) for number in numbers}
        return tuple(size for axis, size in enumerate(shape) if axis not in removed)
    rank = len(shape) + len(numbers)
    inserted, sizes = {number % rank for number in numbers}, iter(shape)
    return tuple(1 if axis in inserted else next(sizes) for axis in range(rank))


def _transpose_recipe(recipe: LinearRecipe, axes: tuple[int, ...], source: tuple[int, ...]) -> LinearRecipe | None:
    """Returns None after a reshape that split or merged axes: the Transpose then stays, which is right and slower."""
    shape = tuple(recipe.shape[axis] for axis in axes)
    wide = [axis for axis in axes if recipe.shape[axis] != 1]
    if wide == sorted(wide):  # only axes of size 1 move
        return replace(recipe, shape=shape)
    before = recipe.permutation or tuple(range(len(source)))
    if recipe.shape != tuple(source[axis] for axis in before):
        return None
    return replace(recipe, shape=shape, permutation=tuple(before[axis] for axis in axes))


def _pad_to_rank(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Adds ones in front, which broadcast to the same."""
    return (1,) * (rank - len(shape)) + shape


def _get_constant_of_rank(rewriter: GraphRewriter, name: str, rank: int) -> str:
    """Returns the name of the constant in this rank; of anything else the name itself."""
    value = rewriter.get_constant(name)
    if value is None or value.dtype != np.float32 or value.ndim >= rank:
        return name
    return rewriter.add_constant(f"{name}@rank {rank}", value.reshape(_pad_to_rank(value.shape, rank)))

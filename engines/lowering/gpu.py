"""The lowering for a GPU: BatchNorm in the convolutions, weights as initializers at their consumers, in their own dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dni_deploy.blending.calibration_table import CalibrationTable
from dni_deploy.errors import EngineError, escape_name
from engines.interface import check_precision
from engines.lowering import batch_norm, batch_norm_nodes, constant_nodes, weight_layout
from engines.lowering.float16 import MAX_FLOAT16, to_float16
from engines.lowering.graph_digest import digest_lowered_graph
from engines.lowering.graph_rewriter import GraphRewriter
from engines.lowering.recipes import Recipes, select_statistics_tensors


@dataclass(frozen=True)
class LoweredWeight:
    """An initializer that changes with alpha.

    Attributes:
        name: Name of the initializer.
        shape: Its shape.
        dtype: float32 or float16, as in the graph.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class LoweredGraph:
    """A graph for a GPU, and how each of its weights is made.

    Attributes:
        graph: Its weights are initializers with name, shape and type, and no data. Input and output are float32, named as in
            the bundle's graph.
        recipes: How each weight is made.
        weights: Exactly those initializers, in the graph's order.
    """

    graph: onnx.ModelProto
    recipes: Recipes
    weights: tuple[LoweredWeight, ...]

    @classmethod
    def from_graph(cls, graph: onnx.ModelProto, recipes: Recipes) -> LoweredGraph:
        """Reads the weights' shapes and dtypes from a graph, which is referenced, not copied."""
        weights = tuple(
            LoweredWeight(tensor.name, tuple(tensor.dims), np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)))
            for tensor in graph.graph.initializer
            if tensor.name in recipes.linear
        )
        return cls(graph, recipes, weights)

    def bind_weights(self, values: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
        """Puts values into the weights.

        Args:
            values: Each weight's value by name, of its size; rounded to the weight's dtype.

        Returns:
            A copy of the graph.

        Raises:
            EngineError: A value is missing or has another size.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.graph)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for weight in self.weights:
            value = values.get(weight.name)
            if value is None or value.size != weight.count:
                raise EngineError(f"The weight {escape_name(weight.name)!r} is not given in its shape {weight.shape}.")
            with np.errstate(over="ignore"):  # `find_float16_overflows` names what does not fit
                array = np.ascontiguousarray(value, weight.dtype).reshape(weight.shape)
            tensors[weight.name].CopyFrom(numpy_helper.from_array(array, weight.name))
        return model

    def digest(self) -> str:
        """Digests the graph and its recipes: the same for the same bundle, on every machine."""
        return digest_lowered_graph(self.graph, self.recipes)


def lower_for_gpu(graph: onnx.ModelProto, weight_names: tuple[str, ...], precision: str, *, fold: bool = True) -> LoweredGraph:
    """Lowers a bundle's graph for a GPU.

    Args:
        graph: The bundle's graph; it is not changed, and the initializers in `weight_names` need no data.
        weight_names: Names of the initializers that differ between members.
        precision: "fp32", "tf32" (the same graph) or "fp16"; float16 graphs are strongly typed, see lowering/float16.py.
        fold: False leaves BatchNorm as arithmetic on the raw tensors inside the graph, so that every recipe is linear: for a
            graph that blends by itself, which cannot know a fold.

    Returns:
        The lowered graph.

    Raises:
        UsageError: There is no such precision.
        EngineError: A node holds another graph, or a BatchNormalization cannot be rewritten.
    """
    check_precision(precision)
    for node in graph.graph.node:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise EngineError(
                f"The graph's node {escape_name(node.name)!r} ({node.op_type}) holds another graph; no GPU engine reads that."
            )
    rewriter = GraphRewriter.from_graph(graph, weight_names)
    rewriter.apply(constant_nodes.rewrite)
    rewriter.apply(weight_layout.rewrite)
    if fold:
        rewriter.apply(batch_norm.rewrite, batch_norm.build_elementwise_scale)
    rewriter.apply(batch_norm_nodes.rewrite)
    lowered, recipes = rewriter.build_graph()
    if precision == "fp16":
        lowered, recipes = to_float16(lowered, recipes)
    return LoweredGraph.from_graph(lowered, recipes)


def find_float16_overflows(
    lowered: LoweredGraph, members: Sequence[Mapping[str, NDArray[Any]]], calibration: CalibrationTable | None = None
) -> list[str]:
    """Finds the float16 weights that would not fit (beyond 65504) at some alpha of a family.

    For coefficients from 0 to 1 a linear weight lies between its members'. What a fold multiplies it by is bounded per channel:
    the largest gamma over the root of the smallest variance. A bound may name a weight that would just have fitted.
    What a calibration gives lies between its calibration points.

    Args:
        lowered: The lowered graph.
        members: Each member's weights by name.
        calibration: The calibration table, or None.

    Returns:
        Their names; empty where all fit.
    """
    sets = select_statistics_tensors(lowered.recipes, members, calibration)
    estimated = {} if calibration is None else calibration.statistics
    largest = {
        name: np.max(
            [np.abs(recipe.compute_value(tensors)) for tensors in (sets if recipe.source in estimated else members)], axis=0
        )
        for name, recipe in lowered.recipes.linear.items()
    }
    for fold in lowered.recipes.folds:
        statistics = np.stack([fold.stack_statistics(tensors) for tensors in sets])
        variance, (gamma, beta) = statistics[:, 0].min(axis=0), np.abs(statistics[:, 1:3]).max(axis=0)
        center = np.abs(statistics[:, 4] - statistics[:, 3]).max(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = gamma / np.sqrt(variance)
        along = [1] * largest[fold.weight].ndim
        along[fold.axis] = -1
        largest[fold.weight] = largest[fold.weight] * scale.reshape(along)
        largest[fold.bias] = beta + scale * center
    return [
        weight.name
        for weight in lowered.weights
        if weight.dtype == np.float16 and not bool(np.all(largest[weight.name] <= MAX_FLOAT16))
    ]

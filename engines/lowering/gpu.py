"""Lowering for a GPU: BatchNorm in the convolutions, weights as initializers at their consumers, in the dtype in which they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dni_deploy.blending.batchnorm_stats import BatchNormTable
from dni_deploy.errors import EngineError, escape_name
from engines.interface import check_precision
from engines.lowering import batch_norm, batch_norm_nodes, constant_nodes, weight_layout
from engines.lowering.float16 import MAX_FLOAT16, to_float16
from engines.lowering.graph_rewriter import GraphRewriter
from engines.lowering.recipes import Recipes, select_statistics_tensors


@dataclass(frozen=True)
class LoweredWeight:
    """An initializer that changes with alpha; dtype float32 or float16, as in the graph."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def count(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class LoweredGraph:
    """A graph for a GPU, and how each of its weights is made.

    graph    its weights are initializers with name, shape and type, and no data. Input and output are float32, named as in the bundle's.
    weights  exactly those initializers, in the graph's order.
    """

    graph: onnx.ModelProto
    recipes: Recipes
    weights: tuple[LoweredWeight, ...]

    @classmethod
    def from_graph(cls, graph: onnx.ModelProto, recipes: Recipes) -> LoweredGraph:
        weights = tuple(
            LoweredWeight(tensor.name, tuple(tensor.dims), np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)))
            for tensor in graph.graph.initializer
            if tensor.name in recipes.linear
        )
        return cls(graph, recipes, weights)

    def bind_weights(self, values: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
        """A copy with these values in its weights, each rounded to the weight's dtype. Raises EngineError (missing, or another size)."""
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
        """SHA-256 in hex of the graph's deterministic serialization: the same for the same bundle, on every machine."""
        return sha256(self.graph.SerializeToString(deterministic=True)).hexdigest()


def lower_for_gpu(graph: onnx.ModelProto, weight_names: tuple[str, ...], precision: str, *, fold: bool = True) -> LoweredGraph:
    """The bundle's graph for a GPU; it is not changed, and the initializers in `weight_names` need no data.

    precision  "fp32" or "fp16"; float16 graphs are strongly typed, see lowering/half.py.
    fold       False leaves BatchNorm as arithmetic on the raw tensors inside the graph, so that every recipe is linear:
               for a graph that blends by itself, which cannot know a Fold.

    Raises UsageError (precision), EngineError (a graph with graphs inside).
    """
    check_precision(precision)
    for node in graph.graph.node:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise EngineError(
                f"The graph's node {escape_name(node.name)!r} ({node.op_type}) holds another graph; no GPU engine reads that."
            )
    draft = GraphRewriter.from_graph(graph, weight_names)
    constant_nodes.rewrite(draft)
    weight_layout.rewrite(draft)
    if fold:
        batch_norm.rewrite(draft, batch_norm.build_elementwise_scale)
    batch_norm_nodes.rewrite(draft)
    lowered, recipes = draft.build_graph()
    if precision == "fp16":
        lowered, recipes = to_float16(lowered, recipes)
    return LoweredGraph.from_graph(lowered, recipes)


def find_float16_overflows(
    lowered: LoweredGraph, members: Sequence[Mapping[str, NDArray[Any]]], recalibration: BatchNormTable | None = None
) -> list[str]:
    """The float16 weights that would not fit (beyond 65504) at some alpha of this family; [] where all fit.

    For shares from 0 to 1 a linear weight lies between its members'. What a Fold multiplies it by is bounded per channel: the
    largest gamma over the root of the smallest variance. A bound may name a weight that would just have fitted.
    Re-estimated statistics lie between those of the knots.
    """
    sets, known = (
        select_statistics_tensors(lowered.recipes, members, recalibration),
        recalibration.statistics if recalibration else {},
    )
    largest = {
        name: np.max(
            [np.abs(recipe.compute_value(tensors)) for tensors in (sets if recipe.source in known else members)], axis=0
        )
        for name, recipe in lowered.recipes.linear.items()
    }
    for fold in lowered.recipes.folds:
        statistics = np.stack([fold.stack_statistics(tensors) for tensors in sets])
        variance, (gamma, beta) = statistics[:, 0].min(axis=0), np.abs(statistics[:, 1:3]).max(axis=0)
        centre = np.abs(statistics[:, 4] - statistics[:, 3]).max(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = gamma / np.sqrt(variance)
        along = [1] * largest[fold.weight].ndim
        along[fold.axis] = -1
        largest[fold.weight] = largest[fold.weight] * scale.reshape(along)
        largest[fold.bias] = beta + scale * centre
    return [
        weight.name
        for weight in lowered.weights
        if weight.dtype == np.float16 and not bool(np.all(largest[weight.name] <= MAX_FLOAT16))
    ]

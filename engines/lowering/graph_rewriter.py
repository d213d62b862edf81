"""A graph under rewriting, with its weights as recipes and the few questions that passes ask of it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.lowering.recipes import LinearRecipe, Recipes

log = logging.getLogger(__name__)


def read_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Returns a node's attributes as Python values by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def is_dense_convolution(node: onnx.NodeProto) -> bool:
    """Tells whether a convolution has one group, steps of one pixel, no dilation and no automatic padding."""
    defaults = {"group": 1, "strides": [1, 1], "dilations": [1, 1], "auto_pad": b"NOTSET"}
    attributes = read_attributes(node)
    return node.op_type == "Conv" and all(attributes.get(name, value) == value for name, value in defaults.items())


@dataclass
class GraphRewriter:
    """A graph that passes edit in place.

    Attributes:
        model: The model that `build_graph` returns; its graph is out of date until then.
        nodes: The nodes, in topological order.
        recipes: How each weight is made of the family's tensors.
        constants: Every other initializer by name.
        channels: Number of channels of each four-dimensional value where ONNX can infer it.
        shapes: Shape of every value whose rank ONNX can infer, None for a size that is not known before a run.
        outputs: Names of the graph's outputs.
    """

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto]
    recipes: Recipes
    constants: dict[str, TensorProto]
    channels: dict[str, int]
    shapes: dict[str, tuple[int | None, ...]]
    outputs: frozenset[str]

    @classmethod
    def from_graph(cls, graph: onnx.ModelProto, weights: tuple[str, ...]) -> GraphRewriter:
        """Starts with a bundle's graph.

        Args:
            graph: The graph; it is not changed.
            weights: Names of the initializers that are weights; they need no data.

        Returns:
            The rewriter, in which each weight is made by a recipe that copies it.
        """
        names = set(weights)
        recipes = Recipes({i.name: LinearRecipe(i.name, tuple(i.dims)) for i in graph.graph.initializer if i.name in names})
        model = onnx.ModelProto()
        model.CopyFrom(graph)
        shapes = _infer_shapes(graph)
        return cls(
            model,
            list(model.graph.node),
            recipes,
            {i.name: i for i in model.graph.initializer if i.name not in names},
            {name: shape[1] for name, shape in shapes.items() if len(shape) == 4 and shape[1] is not None},
            shapes,
            frozenset(value.name for value in graph.graph.output),
        )

    def apply(self, rewrite: Callable[..., None], *arguments: object) -> None:
        """Applies a pass, a function `rewrite(rewriter, *arguments)`, and logs what it changed."""
        nodes, weights, folds = len(self.nodes), len(self.recipes.linear), len(self.recipes.folds)
        rewrite(self, *arguments)
        log.debug(
            "pass %s: %d to %d nodes, %d to %d weights, %d BatchNorms folded",
            rewrite.__module__.rpartition(".")[2], nodes, len(self.nodes), weights, len(self.recipes.linear),
            len(self.recipes.folds) - folds,
        )  # fmt: skip

    def replace_nodes(self, make_nodes: Callable[[onnx.NodeProto], Sequence[onnx.NodeProto] | None]) -> None:
        """Replaces each node by the nodes that a function makes of it; None keeps the node."""
        nodes: list[onnx.NodeProto] = []
        for node in self.nodes:
            replacement = make_nodes(node)
            nodes += [node] if replacement is None else replacement
        self.nodes = nodes

    def count_consumers(self) -> Counter[str]:
        """Counts how often each value is read; a graph output counts as one reading."""
        return Counter([name for node in self.nodes for name in node.input] + list(self.outputs))

    def has_own_weights(self, node: onnx.NodeProto, consumers: Counter[str]) -> bool:
        """Tells whether all weights of a convolution are made by linear recipes, and nothing else reads them."""
        weights = [name for name in node.input[1:] if name]
        folded = {name for fold in self.recipes.folds for name in (fold.weight, fold.bias)}
        return all(name in self.recipes.linear and consumers[name] == 1 and name not in folded for name in weights)

    def find_producers(self) -> dict[str, onnx.NodeProto]:
        """Returns the node that makes each value, by the value's name."""
        return {name: node for node in self.nodes for name in node.output}

    def get_constant(self, name: str) -> NDArray[np.generic] | None:
        """Returns a constant initializer's value, or None for anything else."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def add_constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Adds a constant under this name, unless there is one, and returns the name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def make_depthwise_node(self, x: str, weight: str, bias: str | None, output: str, channels: int) -> onnx.NodeProto:
        """Makes a 1x1 convolution of each channel: ONNX Runtime keeps it in the blocked layout and fuses an Add or Relu."""
        self.channels[output] = channels
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return helper.make_node("Conv", inputs, [output], name=output, group=channels, kernel_shape=[1, 1])

    def build_graph(self) -> tuple[onnx.ModelProto, Recipes]:
        """Returns the graph with what its outputs still need, and its recipes without weights that no node reads any more."""
        used = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):  # nodes are in topological order
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        recipes = Recipes(
            {name: recipe for name, recipe in self.recipes.linear.items() if name in used},
            [fold for fold in self.recipes.folds if fold.weight in used],
        )
        graph = self.model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in used)
        graph.initializer.extend(
            TensorProto(name=name, dims=recipe.shape, data_type=TensorProto.FLOAT) for name, recipe in recipes.linear.items()
        )
        return self.model, recipes


def _infer_shapes(graph: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    return {
        value.name: tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }

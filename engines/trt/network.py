"""Network: what TensorRT is given of a bundle, in each of the four ways to run a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dni_deploy.blending.batchnorm_stats import BatchNormTable
from dni_deploy.blending.batchnorm_stats_file import read_recalibration
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, escape_name
from engines.lowering.gpu import LoweredGraph, find_float16_overflows, lower_for_gpu
from engines.lowering.graph_digest import digest_lowered_graph
from engines.lowering.weights_as_inputs import alpha_as_input, weights_as_inputs

Tensors = Mapping[str, NDArray[Any]]


def lower_bundle(bundle: Bundle, kind: str, graph_precision: str) -> LoweredGraph:
    """Lowers the bundle's graph for a kind of plan.

    Args:
        bundle: The bundle; no member is read.
        kind: "refit", "inputs", "graph" or "constant".
        graph_precision: "fp32" or "fp16", of the graph that TensorRT reads.

    Raises:
        EngineError: The graph cannot be lowered.
    """
    # A graph that blends by itself cannot know of a fold.
    return lower_for_gpu(bundle.read_graph(), bundle.weight_names, graph_precision, fold=kind != "graph")


def digest_graph(bundle: Bundle, kind: str, graph_precision: str) -> str:
    """Digests the graph that TensorRT reads, without the weights' numbers, and how its weights are made.

    Arguments and errors are those of `lower_bundle`.

    Returns:
        SHA-256 in hex: equal for equal graphs, whatever the source that lowered them looks like.
    """
    lowered = lower_bundle(bundle, kind, graph_precision)
    names = tuple(weight.name for weight in lowered.weights)
    graph = lowered.graph
    if kind == "inputs":
        graph = weights_as_inputs(graph, names)
    elif kind == "graph":  # a single zero stands for each weight of a member and of a knot
        zeros = dict.fromkeys(names, np.zeros((1, 1), np.float32))
        known = zeros if bundle.manifest.recalibration is not None else None
        graph = alpha_as_input(graph, names, [zeros] * len(bundle.members), known)
    return digest_lowered_graph(graph, lowered.recipes)


@dataclass(frozen=True)
class Network:
    """kind: "refit", "inputs", "graph" or "constant". lowered: the bundle's graph for a GPU, with how its weights are made.

    recalibration: the bundle's re-estimated BatchNorm statistics; None without.
    """

    kind: str
    lowered: LoweredGraph
    members: Sequence[Tensors]
    recalibration: BatchNormTable | None = None

    @classmethod
    def from_bundle(cls, bundle: Bundle, kind: str, graph_precision: str) -> Network:
        """graph_precision: of the graph that TensorRT reads, "fp32" or "fp16". Raises EngineError where float16 cannot hold a weight."""
        members = [bundle.read_weights(member) for member in bundle.members]
        known = read_recalibration(bundle, members)
        lowered = lower_bundle(bundle, kind, graph_precision)
        if graph_precision == "fp16":
            beyond = find_float16_overflows(lowered, members, known)
            if beyond:
                raise EngineError(
                    f"{len(beyond)} weights may go beyond 65504, the largest float16, first {escape_name(beyond[0])!r}; "
                    "build with --precision fp32."
                )
        return cls(kind, lowered, members, known)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The weights that change with alpha, in the graph's order."""
        return tuple(weight.name for weight in self.lowered.weights)

    @property
    def weight_specs(self) -> tuple[tuple[str, str, int], ...]:
        """Name, type and count of each."""
        return tuple((weight.name, str(weight.dtype), weight.count) for weight in self.lowered.weights)

    def build_model(self) -> onnx.ModelProto:
        """The graph to build, with data in every initializer."""
        lowered = self.lowered
        if self.kind == "inputs":
            return weights_as_inputs(lowered.graph, self.weight_names)
        if self.kind == "graph":
            members = [lowered.recipes.compute_values(tensors) for tensors in self.members]
            return alpha_as_input(lowered.graph, self.weight_names, members, self._stack_statistics())
        return lowered.bind_weights(lowered.recipes.compute_values(self.members[0]))

    def _stack_statistics(self) -> dict[str, NDArray[Any]]:
        """The weights that are re-estimated statistics, in the shape that the graph has them: a row for each knot."""
        if self.recalibration is None:
            return {}
        known, found = self.recalibration.statistics, {}
        for name, recipe in self.lowered.recipes.linear.items():
            if recipe.source is not None and recipe.source in known:
                found[name] = np.stack([recipe.compute_value({recipe.source: row}) for row in known[recipe.source]])
        return found

    def collect_constants(self) -> dict[str, NDArray[Any]]:
        """What the graph holds besides the weights, by the names under which TensorRT may ask for it back at a refit."""
        graph, weights = self.lowered.graph.graph, set(self.weight_names)
        found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name not in weights}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        return found

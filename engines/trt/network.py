"""What TensorRT reads of a bundle: a lowered graph, with the numbers of the members where the plan holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dni_deploy.blending.calibration_table import CalibrationTable
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, escape_name
from engines.calibrated_network import read_network
from engines.lowering.gpu import LoweredGraph, find_float16_overflows, lower_for_gpu

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Network:
    """A family as TensorRT runs it with refitted weights. A subclass is another kind of plan.

    Attributes:
        lowered: The bundle's graph for a GPU, with how its weights are made.
        members: Per member the family's tensors by name.
        calibration: The bundle's calibration table; None without.
        kind: Name of the kind of plan, a part of the plan's identity and of its file name.
        has_refittable_weights: Whether the builder is asked for weights that take new values later.
        holds_members: Whether the plan holds the members' numbers, so that it serves these members alone.
        folds_batch_norm: Whether BatchNorm is folded into the convolutions while the graph is lowered.
    """

    lowered: LoweredGraph
    members: Sequence[Tensors]
    calibration: CalibrationTable | None = None

    kind: ClassVar[str] = "refit"
    has_refittable_weights: ClassVar[bool] = True
    holds_members: ClassVar[bool] = False
    folds_batch_norm: ClassVar[bool] = True

    @classmethod
    def lower(cls, bundle: Bundle, graph_precision: str) -> LoweredGraph:
        """Lowers the bundle's graph for this kind of plan; reads no member.

        Args:
            bundle: The bundle.
            graph_precision: "fp32" or "fp16", of the graph that TensorRT reads.

        Raises:
            EngineError: The graph cannot be lowered.
        """
        network = read_network(bundle)
        return lower_for_gpu(network.graph, network.weight_names, graph_precision, fold=cls.folds_batch_norm)

    @classmethod
    def from_lowered(cls, bundle: Bundle, lowered: LoweredGraph) -> Network:
        """Reads the members for a graph that `lower` made of the same bundle.

        Raises:
            EngineError: Float16 cannot hold a weight at every alpha.
        """
        network = read_network(bundle)
        members = network.read_members()
        calibration = network.make_table(members)
        if any(weight.dtype == np.float16 for weight in lowered.weights):
            overflows = find_float16_overflows(lowered, members, calibration)
            if overflows:
                raise EngineError(
                    f"{len(overflows)} weights may go beyond 65504, the largest float16, first {escape_name(overflows[0])!r}; "
                    "build with --precision tf32 or fp32."
                )
        return cls(lowered, members, calibration)

    @classmethod
    def make_graph(cls, lowered: LoweredGraph, member_count: int) -> onnx.ModelProto:
        """Makes the graph that TensorRT reads without the weights' numbers, whose digest is part of the plan's identity."""
        return lowered.graph

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The weights that change with alpha, in the graph's order."""
        return tuple(weight.name for weight in self.lowered.weights)

    @property
    def weight_specs(self) -> tuple[tuple[str, str, int], ...]:
        """Name, dtype and count of numbers of each weight that changes with alpha, in the graph's order."""
        return tuple((weight.name, str(weight.dtype), weight.count) for weight in self.lowered.weights)

    def build_model(self) -> onnx.ModelProto:
        """Builds the graph that TensorRT reads, with data in every initializer: here the first member's weights."""
        return self.lowered.bind_weights(self.lowered.recipes.compute_values(self.members[0]))

    def collect_constants(self) -> dict[str, NDArray[Any]]:
        """Collects what the graph holds besides the weights, by the names under which a refit may ask for it back."""
        graph, weights = self.lowered.graph.graph, set(self.weight_names)
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name not in weights}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        return constants

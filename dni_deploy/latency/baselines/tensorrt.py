"""Baselines in TensorRT: weights as inputs, alpha as an input, and the first member with constant weights.

They are engines for one alpha over all weights. Their plans are built by `dni-deploy bench --build-baselines`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.latency.baselines.alpha_input import ALPHA_INPUT_NAME, alpha_as_input
from dni_deploy.utils.progress import OptionalProgress
from engines.cuda import backend as cuda
from engines.cuda.blender import DeviceBlender, WeightBuffer
from engines.cuda.device import Device
from engines.cuda.memory import Buffer
from engines.interface import BuildOptions, EngineOptions, check_coefficient_count, require_single_row
from engines.lowering.gpu import LoweredGraph
from engines.lowering.weights_as_inputs import weights_as_inputs
from engines.trt.build import build_plan
from engines.trt.engine import ConstantEngine, TensorRTBufferSet, TensorRTEngine
from engines.trt.load import open_engine
from engines.trt.network import Network
from engines.trt.plan import Plan, find_plan, search_plans
from engines.trt.runner import Runner

BUILD_COMMAND = "dni-deploy bench --build-baselines"


class InputsNetwork(Network):
    """The weights are inputs of the network; the plan serves every family on the graph."""

    kind = "inputs"
    has_refittable_weights = False

    @classmethod
    def make_graph(cls, lowered: LoweredGraph, member_count: int) -> onnx.ModelProto:
        """Makes the graph that TensorRT reads, which has no numbers of weights."""
        return weights_as_inputs(lowered.graph, [weight.name for weight in lowered.weights])

    def build_model(self) -> onnx.ModelProto:
        """Builds the graph that TensorRT reads."""
        return self.make_graph(self.lowered, len(self.members))


class GraphNetwork(Network):
    """Alpha is an input of a network that holds the members and blends by itself."""

    kind = "graph"
    has_refittable_weights = False
    holds_members = True
    folds_batch_norm = False  # a graph that blends by itself cannot know of a fold

    @classmethod
    def make_graph(cls, lowered: LoweredGraph, member_count: int) -> onnx.ModelProto:
        """Makes the graph that TensorRT reads, with a single zero for each weight of a member."""
        names = [weight.name for weight in lowered.weights]
        return alpha_as_input(lowered.graph, names, [dict.fromkeys(names, np.zeros((1, 1), np.float32))] * member_count)

    def build_model(self) -> onnx.ModelProto:
        """Builds the graph that TensorRT reads, with the members inside."""
        members = [self.lowered.recipes.compute_values(tensors) for tensors in self.members]
        return alpha_as_input(self.lowered.graph, self.weight_names, members)


class ConstantNetwork(Network):
    """The first member alone, with constant weights."""

    kind = "constant"
    has_refittable_weights = False
    holds_members = True


class InputsBufferSet(TensorRTBufferSet):
    """A slot whose context reads its weights from the slot's own buffer."""

    def __init__(self, stream: cuda.Stream, runner: Runner, weight_buffer: WeightBuffer, blender: DeviceBlender) -> None:
        super().__init__(stream, runner)
        self._weight_buffer, self._blender = weight_buffer, blender

    def validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Takes one alpha for all weights that the blender takes."""
        return self._blender.validate_coefficients(require_single_row(coefficients, TrtInputsBaseline.name))

    def apply_coefficients(self, coefficients: NDArray[np.float64]) -> None:
        """Queues the blend."""
        self.runner.invalidate_graph()
        self._blender.enqueue_blend(coefficients, self._weight_buffer, self.stream)


class TrtInputsBaseline(TensorRTEngine[InputsBufferSet]):
    """One engine; per slot a context that reads its weights from the slot's buffer. A change of alpha is the blend alone."""

    name = "tensorrt-inputs"
    network_class = InputsNetwork
    build_command = BUILD_COMMAND

    def _describe_update_path(self) -> str:
        return "the weights are inputs of the network"

    def _make_buffer_sets(self, plan: Plan, device: Device) -> Iterator[InputsBufferSet]:
        layout, blender = self._upload_members(device)
        engine = self._deserialize_plan(plan)
        for _ in range(self.slots):
            stream, weight_buffer = device.create_stream(), self._make_weight_buffer(device, layout)
            addresses = {name: int(weight_buffer.pointer_of(name)) for name in self.network.weight_names}
            runner = self._make_runner(device, engine, stream, addresses)
            runner.create_context()
            yield InputsBufferSet(stream, runner, weight_buffer, blender)


class GraphBufferSet(TensorRTBufferSet):
    """A slot whose network reads alpha from the slot's buffer, float32 (1, N), at each frame."""

    def __init__(self, stream: cuda.Stream, runner: Runner, alpha_buffer: Buffer, member_count: int) -> None:
        super().__init__(stream, runner)
        self._alpha_buffer, self._member_count = alpha_buffer, member_count

    def validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Takes one alpha for all weights."""
        row = require_single_row(coefficients, TrtGraphBaseline.name)
        check_coefficient_count(row, self._member_count)
        return row

    def apply_coefficients(self, coefficients: NDArray[np.float64]) -> None:
        """Queues the upload of alpha, from memory that is not page-locked: CUDA has read it when the call returns."""
        self._alpha_buffer.upload(coefficients.astype(np.float32), self.stream)
        self.runner.invalidate_graph()


class TrtGraphBaseline(TensorRTEngine[GraphBufferSet]):
    """One engine with every member inside; per slot alpha, which the network reads at each frame."""

    name = "tensorrt-graph"
    network_class = GraphNetwork
    build_command = BUILD_COMMAND

    def _describe_update_path(self) -> str:
        return "alpha is an input of the network, which blends at every frame"

    def _make_buffer_sets(self, plan: Plan, device: Device) -> Iterator[GraphBufferSet]:
        engine, member_count = self._deserialize_plan(plan), len(self.network.members)
        for _ in range(self.slots):
            stream, alpha_buffer = device.create_stream(), Buffer(device, 4 * member_count)
            self._free_at_close(alpha_buffer.free)
            runner = self._make_runner(device, engine, stream, {ALPHA_INPUT_NAME: alpha_buffer.pointer})
            runner.create_context()
            yield GraphBufferSet(stream, runner, alpha_buffer, member_count)


class TrtConstantBaseline(ConstantEngine):
    """The first member with constant weights: the speed that the others are compared with."""

    network_class = ConstantNetwork
    build_command = BUILD_COMMAND


def _for_rtx(baseline: type[TensorRTEngine[Any]]) -> type[TensorRTEngine[Any]]:
    """Makes the same baseline on TensorRT for RTX."""
    name = baseline.name.replace("tensorrt", "tensorrt-rtx")
    return type(f"Rtx{baseline.__name__}", (baseline,), {"name": name, "library_name": "tensorrt-rtx"})


_BASELINES: tuple[type[TensorRTEngine[Any]], ...] = (TrtInputsBaseline, TrtGraphBaseline, TrtConstantBaseline)

TENSORRT_BASELINES: Mapping[str, type[TensorRTEngine[Any]]] = {
    baseline.name: baseline for baseline in (*_BASELINES, *map(_for_rtx, _BASELINES))
}


def open_baseline(name: str, bundle: Bundle, options: EngineOptions) -> TensorRTEngine[Any]:
    """Opens a baseline of TENSORRT_BASELINES; arguments and errors are those of `engines.trt.load.open_engine`."""
    return open_engine(bundle, options, TENSORRT_BASELINES[name])


def build_missing_baseline(name: str, bundle: Bundle, progress: OptionalProgress = None) -> None:
    """Builds the plan of a baseline unless the bundle has one that fits.

    It gets the precision and the profile of the bundle's plan for the same library, with which it is compared, or else the defaults.
    Errors are those of `engines.trt.build.build_plan`.

    Args:
        name: One of TENSORRT_BASELINES.
        bundle: The bundle.
        progress: Called with the phases of the build.
    """
    baseline = TENSORRT_BASELINES[name]
    match, _ = search_plans(bundle, library_name=baseline.library_name)
    options = BuildOptions()
    if match is not None:
        options = BuildOptions(precision=match.identity.settings.precision, profile=match.identity.settings.profile)
    if find_plan(bundle, baseline.network_class, options.precision, library_name=baseline.library_name) is None:
        build_plan(bundle, options, progress, baseline)

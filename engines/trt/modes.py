"""Engines: the four ways in which TensorRT runs a family: refitted weights, weights as inputs, alpha as an input, one member."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from engines.cuda.blender import WeightBuffer
from engines.cuda.device import Device
from engines.cuda.memory import Buffer
from engines.interface import check_coefficient_count, require_single_row
from engines.lowering.weights_as_inputs import ALPHA_INPUT_NAME, CALIBRATION_INPUT_NAME
from engines.trt.engine import TensorRTBufferSet, TensorRTEngine
from engines.trt.messages import make_engine_error
from engines.trt.plan import Plan
from engines.trt.refitter import Refitter, RefitWeights

INPUT_ALIGNMENT_FLOATS = 64
"""Numbers of 4 bytes: TensorRT asks for inputs at multiples of 256 bytes."""


class RefitEngine(TensorRTEngine):
    """Per slot an engine of its own from the one plan, refitted from the slot's own blended weights."""

    name = "tensorrt"

    def _allocate_buffer_sets(self, plan: Plan, device: Device) -> None:
        self.update_path = f"{self._update_path_prefix}: " + (
            "weights are blended on the GPU and refitted there, in the stream of the frames"
            if self.features.device_weights
            else "weights are blended on the GPU and refitted through the host, because device memory is refitted from 9.1 on"
        )
        layout, constants = self.upload_members(device), self.network.collect_constants()
        for _ in range(self.slots):
            at = TensorRTBufferSet(device.create_stream())
            self._buffer_sets.append(at)
            at.weight_buffer = WeightBuffer(device, layout)
            at.refit_weights = RefitWeights(device, layout, at.weight_buffer)
            at.engine = self._deserialize_plan(plan)
            if not at.engine.refittable:
                raise EngineError("The plan's engine cannot be refitted; build it again.")
            at.refitter = Refitter(at.engine, at.refit_weights, constants, self.features, at.stream)
            at.runner = self._make_runner(device, at.engine, at.stream)

    def _apply_coefficients(self, buffers: TensorRTBufferSet, coefficients: NDArray[np.float64]) -> None:
        assert buffers.refitter is not None
        if buffers.active_runner.has_context and self.features.contexts_survive:
            buffers.active_runner.invalidate_graph()
        elif buffers.active_runner.has_context:
            buffers.stream.synchronize()
            buffers.active_runner.destroy_context()
        self._blend_weights(buffers, coefficients)
        buffers.refitter.refit()
        if not buffers.active_runner.has_context:  # of a plan without weights, too, no context is made before its first refit
            buffers.stream.synchronize()
            buffers.active_runner.create_context()

    def finish_verification(self) -> None:
        super().finish_verification()
        with self._device_context():
            for at in self._buffer_sets:
                if at.refitter is not None:
                    at.refitter.disable_validation()

    def serialize(self, slot: int) -> bytes:
        """The slot's engine with the weights that it has now, as TensorRT writes it."""
        with self._lock_slot(slot) as at:
            if at.unusable_reason is not None:
                raise EngineError(f"Slot {slot} cannot be written: {at.unusable_reason}.")
            at.stream.synchronize()
            serialized = at.engine.serialize()
            if serialized is None:
                raise make_engine_error("serialize the refitted engine")
            return bytes(serialized)


class TrtInputsBaseline(TensorRTEngine):
    """One engine; per slot a context that reads its weights from the slot's live arena. A change is the blend alone."""

    name = "tensorrt-inputs"

    def _allocate_buffer_sets(self, plan: Plan, device: Device) -> None:
        self.update_path = f"{self._update_path_prefix}: the weights are inputs of the network"
        layout = self.upload_members(device)
        self.shared_engine = self._deserialize_plan(plan)
        for _ in range(self.slots):
            at = TensorRTBufferSet(device.create_stream())
            self._buffer_sets.append(at)
            at.weight_buffer = WeightBuffer(device, layout)
            fixed = {name: int(at.weight_buffer.pointer_of(name)) for name in self.network.weight_names}
            at.runner = self._make_runner(device, self.shared_engine, at.stream, fixed)
            at.runner.create_context()

    def _apply_coefficients(self, buffers: TensorRTBufferSet, coefficients: NDArray[np.float64]) -> None:
        buffers.active_runner.invalidate_graph()
        self._blend_weights(buffers, coefficients)


class TrtGraphBaseline(TensorRTEngine):
    """One engine with every member inside; per slot the shares, which the network reads at each frame."""

    name = "tensorrt-graph"

    def _allocate_buffer_sets(self, plan: Plan, device: Device) -> None:
        self.update_path = f"{self._update_path_prefix}: alpha is an input of the network, which blends at every frame"
        self.shared_engine = self._deserialize_plan(plan)
        known = self.network.recalibration
        # Behind the shares of the members those of the knots, from the next place on where TensorRT takes an input.
        self._points_offset = -(-len(self.network.members) // INPUT_ALIGNMENT_FLOATS) * INPUT_ALIGNMENT_FLOATS
        for _ in range(self.slots):
            at = TensorRTBufferSet(device.create_stream())
            self._buffer_sets.append(at)
            at.alpha_buffer = Buffer(
                device, 4 * (self._points_offset + (0 if known is None else len(known.calibration_points)))
            )
            fixed = {ALPHA_INPUT_NAME: at.alpha_buffer.pointer}
            if known is not None:
                fixed[CALIBRATION_INPUT_NAME] = at.alpha_buffer.pointer + 4 * self._points_offset
            at.runner = self._make_runner(device, self.shared_engine, at.stream, fixed)
            at.runner.create_context()

    def _validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        shares, known = require_single_row(super()._validate_coefficients(coefficients), self.name), self.network.recalibration
        check_coefficient_count(shares, len(self.network.members))
        return shares if known is None else known.validate_coefficients(shares)

    def _apply_coefficients(self, buffers: TensorRTBufferSet, coefficients: NDArray[np.float64]) -> None:
        assert buffers.alpha_buffer is not None
        known = self.network.recalibration
        knots = np.zeros(0) if known is None else known.interpolation_weights(coefficients)
        fed = np.zeros(self._points_offset + knots.size, np.float32)
        fed[: coefficients.size], fed[self._points_offset :] = coefficients, knots
        # From memory that is not page-locked: CUDA has read it when the call returns.
        buffers.alpha_buffer.upload(fed, buffers.stream)
        buffers.active_runner.invalidate_graph()


class TrtConstantBaseline(TensorRTEngine):
    """The first member with constant weights, whatever alpha is: the speed that the others are held against."""

    name = "tensorrt-constant"
    blends = False

    def _allocate_buffer_sets(self, plan: Plan, device: Device) -> None:
        self.update_path = f"{self._update_path_prefix}: constant weights, the first member, whatever alpha is"
        self.shared_engine = self._deserialize_plan(plan)
        for _ in range(self.slots):
            at = TensorRTBufferSet(device.create_stream())
            self._buffer_sets.append(at)
            at.runner = self._make_runner(device, self.shared_engine, at.stream)
            at.runner.create_context()

    def _apply_coefficients(self, buffers: TensorRTBufferSet, coefficients: NDArray[np.float64]) -> None:
        pass


ENGINE_BY_PLAN_KIND: Mapping[str, type[TensorRTEngine]] = {
    "refit": RefitEngine,
    "inputs": TrtInputsBaseline,
    "graph": TrtGraphBaseline,
    "constant": TrtConstantBaseline,
}
"""By the kind of plan that they open."""

"""Engines: the four ways in which TensorRT runs a family: refitted weights, weights as inputs, alpha as an input, one member."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from engines.cuda.blender import Live
from engines.cuda.device import Device
from engines.cuda.memory import Buffer
from engines.lowering.weights_as_inputs import ALPHA, KNOTS
from engines.shares import check_count, one_for_all
from engines.trt.engine import Slot, TensorRTEngine
from engines.trt.messages import failed
from engines.trt.plan import Plan
from engines.trt.refitter import Refitter
from engines.trt.weights import Source

ALIGNED = 64
"""Numbers of 4 bytes: TensorRT asks for inputs at multiples of 256 bytes."""


class RefitEngine(TensorRTEngine):
    """Per slot an engine of its own from the one plan, refitted from the slot's own blended weights."""

    name = "tensorrt"

    def fill(self, plan: Plan, device: Device) -> None:
        self.road = f"{self.what}: " + (
            "weights are blended on the GPU and refitted there, in the stream of the frames"
            if self.features.device_weights
            else "weights are blended on the GPU and refitted through the host, because device memory is refitted from 9.1 on"
        )
        layout, constants = self.upload_members(device), self.network.constants()
        for _ in range(self.slots):
            at = Slot(device.stream())
            self.all.append(at)
            at.live = Live(device, layout)
            at.source = Source(device, layout, at.live)
            at.engine = self.deserialized(plan)
            if not at.engine.refittable:
                raise EngineError("The plan's engine cannot be refitted; build it again.")
            at.refitter = Refitter(at.engine, at.source, constants, self.features, at.stream)
            at.runner = self.runner(device, at.engine, at.stream)

    def change(self, at: Slot, shares: NDArray[np.float64]) -> None:
        assert at.refitter is not None
        if at.run.ready and self.features.contexts_survive:
            at.run.refitted()
        elif at.run.ready:
            at.stream.synchronize()
            at.run.retire()
        self.blend(at, shares)
        at.refitter.refit()
        if not at.run.ready:  # of a plan without weights, too, no context is made before its first refit
            at.stream.synchronize()
            at.run.renew()

    def accept(self) -> None:
        super().accept()
        with self.held():
            for at in self.all:
                if at.refitter is not None:
                    at.refitter.trust()

    def serialize(self, slot: int) -> bytes:
        """The slot's engine with the weights that it has now, as TensorRT writes it."""
        with self.holding(slot) as at:
            if at.unusable is not None:
                raise EngineError(f"Slot {slot} cannot be written: {at.unusable}.")
            at.stream.synchronize()
            serialized = at.engine.serialize()
            if serialized is None:
                raise failed("serialize the refitted engine")
            return bytes(serialized)


class InputsEngine(TensorRTEngine):
    """One engine; per slot a context that reads its weights from the slot's live arena. A change is the blend alone."""

    name = "tensorrt-inputs"

    def fill(self, plan: Plan, device: Device) -> None:
        self.road = f"{self.what}: the weights are inputs of the network"
        layout = self.upload_members(device)
        self.shared = self.deserialized(plan)
        for _ in range(self.slots):
            at = Slot(device.stream())
            self.all.append(at)
            at.live = Live(device, layout)
            fixed = {name: int(at.live.pointer(name)) for name in self.network.names}
            at.runner = self.runner(device, self.shared, at.stream, fixed)
            at.runner.renew()

    def change(self, at: Slot, shares: NDArray[np.float64]) -> None:
        at.run.refitted()
        self.blend(at, shares)


class GraphEngine(TensorRTEngine):
    """One engine with every member inside; per slot the shares, which the network reads at each frame."""

    name = "tensorrt-graph"

    def fill(self, plan: Plan, device: Device) -> None:
        self.road = f"{self.what}: alpha is an input of the network, which blends at every frame"
        self.shared = self.deserialized(plan)
        known = self.network.recalibration
        # Behind the shares of the members those of the knots, from the next place on where TensorRT takes an input.
        self._knots_at = -(-len(self.network.members) // ALIGNED) * ALIGNED
        for _ in range(self.slots):
            at = Slot(device.stream())
            self.all.append(at)
            at.alpha = Buffer(device, 4 * (self._knots_at + (0 if known is None else len(known.knots))))
            fixed = {ALPHA: at.alpha.pointer}
            if known is not None:
                fixed[KNOTS] = at.alpha.pointer + 4 * self._knots_at
            at.runner = self.runner(device, self.shared, at.stream, fixed)
            at.runner.renew()

    def taken(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        shares, known = one_for_all(super().taken(coefficients), self.name), self.network.recalibration
        check_count(shares, len(self.network.members))
        return shares if known is None else known.checked(shares)

    def change(self, at: Slot, shares: NDArray[np.float64]) -> None:
        assert at.alpha is not None
        known = self.network.recalibration
        knots = np.zeros(0) if known is None else known.shares(shares)
        fed = np.zeros(self._knots_at + knots.size, np.float32)
        fed[: shares.size], fed[self._knots_at :] = shares, knots
        # From memory that is not page-locked: CUDA has read it when the call returns.
        at.alpha.upload(fed, at.stream)
        at.run.refitted()


class ConstantEngine(TensorRTEngine):
    """The first member with constant weights, whatever alpha is: the speed that the others are held against."""

    name = "tensorrt-constant"
    blends = False

    def fill(self, plan: Plan, device: Device) -> None:
        self.road = f"{self.what}: constant weights, the first member, whatever alpha is"
        self.shared = self.deserialized(plan)
        for _ in range(self.slots):
            at = Slot(device.stream())
            self.all.append(at)
            at.runner = self.runner(device, self.shared, at.stream)
            at.runner.renew()

    def change(self, at: Slot, shares: NDArray[np.float64]) -> None:
        pass


ENGINES: Mapping[str, type[TensorRTEngine]] = {
    "refit": RefitEngine,
    "inputs": InputsEngine,
    "graph": GraphEngine,
    "constant": ConstantEngine,
}
"""By the kind of plan that they open."""

"""Base: what the four ways to run a family in TensorRT have in common.

Each slot has one stream. Blend, refit, upload, run and download of a slot are queued on it in the order of the calls, so that none
of them needs to wait for another one, and nothing of one slot ever touches another slot's stream: two slots are two engines.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycuda.driver as cuda
import tensorrt as trt
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from engines.cuda.blender import DeviceBlender, WeightBuffer
from engines.cuda.device import Device
from engines.cuda.layout import DeviceLayout
from engines.cuda.members import DeviceMembers
from engines.cuda.memory import Buffer
from engines.interface import EngineOptions
from engines.trt.features import Features
from engines.trt.messages import clear_errors, drop_variables, get_logger, make_engine_error, summarize_message
from engines.trt.network import Network
from engines.trt.plan import Plan
from engines.trt.refitter import Refitter, RefitWeights
from engines.trt.runner import Runner
from engines.verification import mixed_coefficients

NOT_YET_REFITTED = "it has no weights yet"
REFIT_INCOMPLETE = "its last refit failed and may have changed some of the weights"


@dataclass
class TensorRTBufferSet:
    """One set of weights. unusable: why no frame may run on it, or None."""

    stream: Any
    engine: Any = None
    runner: Runner | None = None
    weight_buffer: WeightBuffer | None = None
    refit_weights: RefitWeights | None = None
    refitter: Refitter | None = None
    alpha_buffer: Buffer | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    unusable_reason: str | None = NOT_YET_REFITTED

    @property
    def active_runner(self) -> Runner:
        if self.runner is None:
            raise EngineError("The engine is closed.")
        return self.runner


class TensorRTEngine:
    """A DeviceEngine (see engines/interface.py). It owns the device's context and all that it makes in it.

    blends  whether alpha has an effect.
    """

    name: str
    update_path: str
    blends = True

    def __init__(self, network: Network, plan: Plan, options: EngineOptions, features: Features) -> None:
        """Raises EngineError, UnavailableError; nothing is left behind then."""
        self.network, self.header, self.features = network, plan.header, features
        self.slots = options.slots or 1
        self._replay = options.cuda_graph
        self._buffer_sets: list[TensorRTBufferSet] = []
        self._members: DeviceMembers | None = None
        self._blender: DeviceBlender | None = None
        self._runtime: Any = None
        self.shared_engine: Any = None
        self._device: Device | None = Device.open(options.device)
        try:
            with self._device:
                clear_errors()
                self._runtime = trt.Runtime(get_logger())
                self._allocate_buffer_sets(plan, self._device)
        except BaseException as error:
            with self._device:
                drop_variables(error)
            self.close()
            if isinstance(error, cuda.Error):
                raise _make_gpu_error(error) from error
            raise

    # What a kind adds.

    def _allocate_buffer_sets(self, plan: Plan, device: Device) -> None:
        """Fill `_buffer_sets`. The device is held; what is made must be reachable from `self` at once, so that `close` finds it."""
        raise NotImplementedError

    def _apply_coefficients(self, buffers: TensorRTBufferSet, coefficients: NDArray[np.float64]) -> None:
        """Queue what makes the slot compute with these shares, which `taken` returned. The device is held."""
        raise NotImplementedError

    def _validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """The shares as `_apply_coefficients` takes them. Raises UsageError, CoefficientsError or EngineError where it does not, and then the slot is
        as it was: all that can be said against shares is said here."""
        shares = np.asarray(coefficients, np.float64)
        return shares if self._blender is None else self._blender.validate_coefficients(shares)

    # Engine

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        with self._lock_slot(slot) as at:
            shares = self._validate_coefficients(coefficients)
            at.unusable_reason = REFIT_INCOMPLETE
            self._apply_coefficients(at, shares)
            at.unusable_reason = None

    def synchronize(self, slot: int) -> None:
        with self._lock_slot(slot) as at:
            at.stream.synchronize()

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock_slot(slot) as at:
            at.active_runner.upload(x)
            self._enqueue_frame(slot, at)
            return at.active_runner.download()

    # DeviceEngine

    def stream_handle(self, slot: int) -> int:
        with self._lock_slot(slot) as at:
            return int(at.stream.handle)

    def upload(self, slot: int, x: NDArray[np.float32]) -> None:
        with self._lock_slot(slot) as at:
            at.active_runner.upload(x)

    def enqueue(self, slot: int) -> None:
        with self._lock_slot(slot) as at:
            self._enqueue_frame(slot, at)

    def download(self, slot: int) -> NDArray[np.float32]:
        with self._lock_slot(slot) as at:
            return at.active_runner.download()

    # What opening needs.

    @property
    def verification_coefficients(self) -> NDArray[np.float64]:
        """The shares at which an opened plan is compared with ONNX Runtime."""
        count = len(self.network.members)
        return mixed_coefficients(count) if self.blends else np.eye(count)[0]

    def finish_verification(self) -> None:
        """After the verification: its weights and its picture are nobody's, so every slot waits for its first refit and frame."""
        for at in self._buffer_sets:
            at.unusable_reason = NOT_YET_REFITTED
            at.active_runner.reset()

    def detect_replay_support(self, x: NDArray[np.float32]) -> None:
        """Find out whether frames can be replayed as a CUDA graph here, and whether a replay sees weights that came after it.

        NVIDIA does not say whether weights stay where they are over a refit. Uses slot 0. Without a clear answer, graphs are captured
        again after each refit; where a replay is no good at all, there are none, and `update_path` says so.
        """
        first, last = np.eye(len(self.network.members))[[0, -1]]
        run = self._buffer_sets[0].active_runner
        keeps = False
        try:
            self.refit(0, first)
            plain, again = self.infer(0, x), self.infer(0, x)
            if not (run.has_captured_graph and np.array_equal(plain, again)):
                raise EngineError("a replayed frame differs from a queued one")
            if self.features.contexts_survive:
                run.keep_graph_over_refit = True
                self.refit(0, last)
                replayed = self.infer(0, x)
                run.keep_graph_over_refit = False
                with self._device_context():
                    run.invalidate_graph()
                fresh = self.infer(0, x)
                # Where the last member's picture is the first one's, nothing was seen.
                keeps = np.array_equal(replayed, fresh) and not np.array_equal(fresh, plain)
        except EngineError as error:
            keeps, self._replay = False, False
            self.update_path += f"; without CUDA graphs, because {str(error).rstrip('.')}"
        if self._replay:
            kept = "kept over refits" if keeps else "captured again after each refit"
            self.update_path += f"; frames are replayed as CUDA graphs{f', {kept}' if self.blends else ''}"
        for at in self._buffer_sets:
            at.active_runner.replay, at.active_runner.keep_graph_over_refit = self._replay, keeps
            with self._device_context():
                at.active_runner.invalidate_graph()

    def close(self) -> None:
        """Contexts, refitters, engines, runtime, buffers, streams, device: TensorRT crashes in another order."""
        device, self._device = self._device, None
        if device is None:
            return
        with device:
            for at in self._buffer_sets:
                _suppress_cuda_errors(at.stream.synchronize)
            for at in self._buffer_sets:
                if at.runner is not None:
                    _suppress_cuda_errors(at.runner.release)
            for at in self._buffer_sets:
                if at.refitter is not None:
                    _suppress_cuda_errors(at.refitter.close)
                at.refitter = None
            for at in self._buffer_sets:
                at.engine = None
            self.shared_engine = None
            self._runtime = None
            for at in self._buffer_sets:
                for part in (at.runner, at.refit_weights, at.alpha_buffer, at.weight_buffer):
                    if part is not None:
                        _suppress_cuda_errors(part.free)
                at.runner, at.refit_weights, at.alpha_buffer, at.weight_buffer = None, None, None, None
            if self._members is not None:
                _suppress_cuda_errors(self._members.free)
            self._members, self._blender = None, None
            for at in self._buffer_sets:
                at.stream = None
            self._buffer_sets.clear()
        device.close()

    def _enqueue_frame(self, slot: int, buffers: TensorRTBufferSet) -> None:
        if buffers.unusable_reason is not None:
            raise EngineError(f"Slot {slot} cannot run: {buffers.unusable_reason}; refit it first.")
        buffers.active_runner.enqueue()

    # What the kinds share.

    @property
    def _update_path_prefix(self) -> str:
        """How every road begins."""
        return f"TensorRT {self.features.version}, {self.header.precision}"

    @contextmanager
    def _lock_slot(self, slot: int) -> Iterator[TensorRTBufferSet]:
        """The slot's lock and the device. An error of the GPU becomes an EngineError, and the slot unusable."""
        if self._device is None:
            raise EngineError("The engine is closed.")
        at = self._buffer_sets[slot]
        with at.lock, self._device_context():
            try:
                yield at
            except cuda.Error as error:
                at.unusable_reason = f"the GPU failed ({summarize_message(str(error))})"
                raise _make_gpu_error(error) from error

    @contextmanager
    def _device_context(self) -> Iterator[Device]:
        if self._device is None:
            raise EngineError("The engine is closed.")
        with self._device as device:
            yield device

    def _deserialize_plan(self, plan: Plan) -> Any:
        engine = self._runtime.deserialize_cuda_engine(plan.engine)
        if engine is None:
            raise make_engine_error("load the plan", "Build it again.")
        return engine

    def _make_runner(
        self, device: Device, engine: Any, stream: Any, fixed_addresses: Mapping[str, int] | None = None
    ) -> Runner:
        return Runner(device, engine, stream, self.header.profile, fixed_addresses, replay=self._replay)

    def upload_members(self, device: Device) -> DeviceLayout:
        """Upload the members, once for all slots."""
        network, known = self.network, self.network.recalibration
        layout = DeviceLayout.from_lowered(network.lowered, () if known is None else known.statistics)
        self._members = DeviceMembers(device, layout, network.lowered.recipes, list(network.members), known)
        self._blender = DeviceBlender(device, self._members)
        return layout

    def _blend_weights(self, buffers: TensorRTBufferSet, coefficients: NDArray[np.float64]) -> None:
        assert self._blender is not None
        assert buffers.weight_buffer is not None
        self._blender.enqueue_blend(coefficients, buffers.weight_buffer, buffers.stream)


def _make_gpu_error(error: Exception) -> EngineError:
    hint = " Close what else uses the GPU, or build for smaller frames." if isinstance(error, cuda.MemoryError) else ""
    return EngineError(f"The GPU failed: {summarize_message(str(error))}.{hint}")


def _suppress_cuda_errors(step: Callable[[], object]) -> None:
    """On the way out: a GPU that has failed fails again at each step, and the others are still to be done."""
    with suppress(cuda.Error, EngineError):
        step()

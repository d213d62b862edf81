"""The running TensorRT engine: slots on streams of their own, and weights refitted into them from device memory.

Each slot has one stream. Blend, refit, upload, run and download of a slot are queued on it in the order of the calls, so that
none of them needs to wait for another one, and nothing of one slot ever touches another slot's stream: two slots are two
engines. The pixels of rendered frames have streams of their own (engines/cuda/frame_buffers.py).
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.signature import Signature
from engines.cuda import backend as cuda
from engines.cuda.blender import DeviceBlender, WeightBuffer
from engines.cuda.device import Device
from engines.cuda.device_frame import CudaArray
from engines.cuda.frame_buffers import FrameRenderer
from engines.cuda.layout import DeviceLayout
from engines.cuda.members import DeviceMembers
from engines.frame_conversion import render_on_host
from engines.interface import EngineOptions
from engines.trt.execution_contexts import ExecutionContexts
from engines.trt.library import Library
from engines.trt.messages import drop_variables, summarize_message
from engines.trt.network import Network
from engines.trt.plan import Plan
from engines.trt.refitter import Refitter, RefitWeights
from engines.trt.runner import Runner
from engines.verification import mixed_coefficients

log = logging.getLogger(__name__)

NOT_YET_REFITTED = "it has no weights yet"
REFIT_INCOMPLETE = "its last refit failed and may have changed some of the weights"


class TensorRTBufferSet(ABC):
    """One slot: its stream, its runner, and what a change of alpha writes to. Complete when it exists.

    The engine frees what a slot is made of. Everything that is queued for the slot goes to `stream`.

    Attributes:
        stream: The slot's CUDA stream.
        runner: Frames go through it.
        lock: Held during every use.
        unusable_reason: Why no frame may run on the slot, a clause, or None.

    Thread safety: the engine holds `lock` and the device around every call.
    """

    def __init__(self, stream: cuda.Stream, runner: Runner) -> None:
        self.stream, self.runner = stream, runner
        self.lock = threading.RLock()
        self.unusable_reason: str | None = NOT_YET_REFITTED

    @abstractmethod
    def validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Validates coefficients, and touches nothing of the slot: all refusals come from here.

        Args:
            coefficients: float64 (N,) or (W, N), as in `Engine.refit`.

        Returns:
            The coefficients as `apply_coefficients` takes them.

        Raises:
            CoefficientsError: The calibration does not reach there.
            UsageError: The engine has one alpha for all weights.
            EngineError: Another shape, all 0, or a variance that is not positive.
        """

    @abstractmethod
    def apply_coefficients(self, coefficients: NDArray[np.float64]) -> None:
        """Queues on the stream what makes the next frame compute with these validated coefficients.

        Raises:
            EngineError: Something could not be queued; some of the weights may have changed.
        """


BufferSet = TypeVar("BufferSet", bound=TensorRTBufferSet)


class TensorRTEngine(ABC, Generic[BufferSet]):
    """A DeviceEngine (see engines/interface.py) on one plan. It owns the device's context and all that it makes in it.

    Attributes:
        network_class: The kind of plan that it opens.
        build_command: What builds such a plan, for messages.
        blends: Whether alpha has an effect.
        network: The family that it runs.
        header: The plan's header.
        plan_digest: SHA-256 of the plan's engine, in hex.
        library: The TensorRT library that runs it.
        library_name: Name of that library, a key of `engines.trt.library.MODULE_NAMES`.

    Thread safety: any thread may call any method but `close`, which runs alone. Calls for one slot come after each other.
    """

    name: str
    library_name: ClassVar[str] = "tensorrt"
    network_class: ClassVar[type[Network]] = Network
    build_command: ClassVar[str]
    blends: ClassVar[bool] = True

    def __init__(self, network: Network, plan: Plan, options: EngineOptions, library: Library) -> None:
        """Loads the plan and makes every slot; nothing is left behind where that fails.

        Args:
            network: The family; it must be the one of the plan.
            plan: The plan, already checked.
            options: Slots, device, and whether frames are replayed as CUDA graphs.
            library: The library that built the plan.

        Raises:
            EngineError: TensorRT or the GPU failed.
            LimitError: There is too little memory.
            UnavailableError: There is no such GPU.
        """
        self.network, self.header, self.library = network, plan.header, library
        self.plan_digest = plan.digest
        self.slots = options.slots or 1
        self.update_path = f"{library.title}, {self.header.precision}: {self._describe_update_path()}"
        self._replay = options.cuda_graph
        self._buffer_sets: list[BufferSet] = []
        self._cleanup = ExitStack()  # unwound newest first: contexts, refitters and engines, then what lies under them
        self._runtime: Any = None
        self._device: Device | None = Device.open(options.device)
        try:
            with self._device:
                library.clear_errors()
                self._runtime = library.trt.Runtime(library.logger)
                self._contexts = ExecutionContexts(self._device, library, plan.header.key)
                self._free_at_close(self._contexts.close)
                self._buffer_sets.extend(self._make_buffer_sets(plan, self._device))
                self._frame_renderer = FrameRenderer(self._device)
                self._free_at_close(self._frame_renderer.close)
        except BaseException as error:
            with self._device:
                drop_variables(error)
            self.close()
            if isinstance(error, cuda.Error):
                raise _make_gpu_error(error) from error
            raise

    @abstractmethod
    def _describe_update_path(self) -> str:
        """Says how weights reach the network, the end of `update_path`."""

    @abstractmethod
    def _make_buffer_sets(self, plan: Plan, device: Device) -> Iterator[BufferSet]:
        """Makes `slots` slots, with the device held. What is to be freed is given to `_free_at_close` as soon as it exists."""

    # Engine

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Queues the blend into the slot; see `Engine.refit`."""
        with self._lock_slot(slot) as buffers:
            started = time.perf_counter()
            coefficients = buffers.validate_coefficients(np.asarray(coefficients, np.float64))
            buffers.unusable_reason = REFIT_INCOMPLETE
            buffers.apply_coefficients(coefficients)
            buffers.unusable_reason = None
            log.debug("refit of slot %d queued in %.2f ms", slot, (time.perf_counter() - started) * 1e3)

    def synchronize(self, slot: int) -> None:
        """Waits for all that is queued for the slot."""
        with self._lock_slot(slot) as buffers:
            buffers.stream.synchronize()

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs one frame: float32 (N, C, H, W) -> float32 (N, C', H', W'), an array of the caller's."""
        with self._lock_slot(slot) as buffers:
            buffers.runner.upload(x)
            _require_weights(slot, buffers)
            buffers.runner.enqueue()
            return buffers.runner.download()

    def render(self, slot: int, frame: AnyFrame | CudaArray, signature: Signature) -> Any:
        """Renders a frame, as `Engine.render`; frames of several threads overlap on one slot, too.

        Args:
            slot: Number of the slot.
            frame: As `Engine.render`, or an array in the memory of this GPU, by CUDA's array interface.
            signature: Of the network.

        Returns:
            As `Engine.render`; for an array on the GPU a DeviceFrame (see engines/cuda/device_frame.py).
        """
        if signature.color == "luma":  # the kernels know channels
            return render_on_host(lambda x: self.infer(slot, x), frame, signature)
        self._require_device()
        with self._device_context(), _mark_failures(self._buffer_sets[slot]):
            return self._frame_renderer.render(frame, signature, lambda: self._lock_runner(slot))

    # DeviceEngine

    def stream_handle(self, slot: int) -> int:
        """Returns the slot's CUstream, which the engine owns."""
        with self._lock_slot(slot) as buffers:
            return int(buffers.stream.handle)

    def upload(self, slot: int, x: NDArray[np.float32]) -> None:
        """Queues the upload of an input; see `DeviceEngine.upload`."""
        with self._lock_slot(slot) as buffers:
            buffers.runner.upload(x)

    def enqueue(self, slot: int) -> None:
        """Queues one run on the input that was uploaded last; see `DeviceEngine.enqueue`."""
        with self._lock_runner(slot) as runner:
            runner.enqueue()

    def download(self, slot: int) -> NDArray[np.float32]:
        """Waits for what is queued and returns the newest output; see `DeviceEngine.download`."""
        with self._lock_slot(slot) as buffers:
            return buffers.runner.download()

    # What opening needs.

    @property
    def verification_coefficients(self) -> NDArray[np.float64]:
        """The coefficients at which an opened plan is compared with ONNX Runtime, float64 (N,)."""
        count = len(self.network.members)
        return mixed_coefficients(count) if self.blends else np.eye(count)[0]

    def finish_verification(self) -> None:
        """Discards the weights and frames of the verification: every slot must be refitted before use."""
        for buffers in self._buffer_sets:
            buffers.unusable_reason = NOT_YET_REFITTED
            buffers.runner.reset()

    def detect_replay_support(self, x: NDArray[np.float32]) -> None:
        """Finds out whether frames can be replayed as a CUDA graph here, and whether a replay sees weights that came after it.

        NVIDIA does not say whether weights stay where they are over a refit. Without a clear answer, graphs are captured again
        after each refit; where a replay is no good at all, there are none, and `update_path` says so. Uses slot 0.

        Args:
            x: An input that the profile takes, float32 (N, C, H, W).
        """
        sees_refits, own_graphs = False, self.library.features.own_cuda_graphs
        try:
            if own_graphs:
                self._check_own_graphs(x)
            else:
                sees_refits = self._replays_see_refits(x)
        except EngineError as error:
            self._replay = False
            self.update_path += f"; without CUDA graphs, because {str(error).rstrip('.')}"
        if self._replay:
            kept = ", kept over refits" if sees_refits else ", captured again after each refit"
            self.update_path += f"; frames are replayed as CUDA graphs{'' if own_graphs or not self.blends else kept}"
        with self._device_context():
            for buffers in self._buffer_sets:
                buffers.runner.replay, buffers.runner.keep_graph_over_refit = self._replay, sees_refits
                buffers.runner.invalidate_graph()
                if own_graphs and buffers.runner.has_context:
                    buffers.runner.create_context()

    def _replays_see_refits(self, x: NDArray[np.float32]) -> bool:
        """Tells whether a captured graph sees weights that came after it.

        Raises:
            EngineError: A replayed frame differs from a queued one.
        """
        first, last = np.eye(len(self.network.members))[[0, -1]]
        runner = self._buffer_sets[0].runner
        self.refit(0, first)
        plain, replayed = self.infer(0, x), self.infer(0, x)
        if not (runner.has_captured_graph and np.array_equal(plain, replayed)):
            raise EngineError("a replayed frame differs from a queued one")
        if not self.library.features.device_weights:
            return False
        runner.keep_graph_over_refit = True
        self.refit(0, last)
        replayed = self.infer(0, x)
        runner.keep_graph_over_refit = False
        with self._device_context():
            runner.invalidate_graph()
        fresh = self.infer(0, x)
        # Where the last member's output is the first one's, nothing was seen.
        return np.array_equal(replayed, fresh) and not np.array_equal(fresh, plain)

    def _check_own_graphs(self, x: NDArray[np.float32]) -> None:
        """Compares a frame that the library replays after a refit with one that a context without CUDA graphs computes.

        Raises:
            EngineError: They differ.
        """
        first, last = np.eye(len(self.network.members))[[0, -1]]
        runner = self._buffer_sets[0].runner
        self.refit(0, first)
        for _ in range(2):  # the second frame of a shape is replayed
            self.infer(0, x)
        self.refit(0, last)
        replayed = self.infer(0, x)
        runner.replay = False
        with self._device_context():
            runner.create_context()
        if not np.array_equal(replayed, self.infer(0, x)):
            raise EngineError("a replayed frame differs from a queued one")

    def close(self) -> None:
        """Frees everything; calling it again does nothing.

        Contexts, refitters and engines go before the memory that they use, then the runtime, the streams and the device. TensorRT
        crashes in another order.
        """
        device, self._device = self._device, None
        if device is None:
            return
        with device:
            streams = [buffers.stream for buffers in self._buffer_sets]
            self._release_slots()
            self._cleanup.close()
            self._runtime = None
            streams.clear()
        device.close()

    def _release_slots(self) -> None:
        """Waits for all slots and empties them: an exception that somebody keeps may hold one through its frames."""
        for buffers in self._buffer_sets:
            _suppress_cuda_errors(buffers.stream.synchronize)
        for buffers in self._buffer_sets:
            vars(buffers).clear()
        self._buffer_sets.clear()

    @contextmanager
    def _lock_slot(self, slot: int) -> Iterator[BufferSet]:
        """Holds the slot's lock and the device. An error of the GPU becomes an EngineError, and the slot unusable."""
        self._require_device()
        buffers = self._buffer_sets[slot]
        with buffers.lock, self._device_context(), _mark_failures(buffers):
            yield buffers

    @contextmanager
    def _lock_runner(self, slot: int) -> Iterator[Runner]:
        """Holds the slot, which has to have weights."""
        with self._lock_slot(slot) as buffers:
            _require_weights(slot, buffers)
            yield buffers.runner

    @contextmanager
    def _device_context(self) -> Iterator[None]:
        with self._require_device():
            yield

    def _require_device(self) -> Device:
        if self._device is None:
            raise EngineError("The engine is closed.")
        return self._device

    # What `_make_buffer_sets` is made of.

    def _free_at_close(self, free: Callable[[], object]) -> None:
        """Has `close` call this, before all that was given earlier. An error of the GPU does not keep the others from it."""
        self._cleanup.callback(_suppress_cuda_errors, free)

    def _deserialize_plan(self, plan: Plan) -> Any:
        return self.library.deserialize_engine(self._runtime, plan.engine)

    def _make_runner(
        self, device: Device, engine: Any, stream: cuda.Stream, fixed_addresses: Mapping[str, int] | None = None
    ) -> Runner:
        runner = Runner(device, self._contexts, engine, stream, self.header.profile, fixed_addresses, replay=self._replay)
        self._free_at_close(runner.close)
        return runner

    def _upload_members(self, device: Device) -> tuple[DeviceLayout, DeviceBlender]:
        """Uploads the members, once for all slots, and gives the layout of a slot's weights and what blends into it."""
        network, calibration = self.network, self.network.calibration
        layout = DeviceLayout.from_lowered(network.lowered, () if calibration is None else calibration.statistics)
        members = DeviceMembers(device, layout, network.lowered.recipes, list(network.members), calibration)
        self._free_at_close(members.free)
        return layout, DeviceBlender(device, members)

    def _make_weight_buffer(self, device: Device, layout: DeviceLayout) -> WeightBuffer:
        weight_buffer = WeightBuffer(device, layout)
        self._free_at_close(weight_buffer.free)
        return weight_buffer


class RefitBufferSet(TensorRTBufferSet):
    """A slot whose engine is its own, refitted from the slot's own blended weights."""

    def __init__(
        self,
        stream: cuda.Stream,
        runner: Runner,
        engine: Any,
        refitter: Refitter,
        weight_buffer: WeightBuffer,
        blender: DeviceBlender,
        contexts_survive: bool,
    ) -> None:
        super().__init__(stream, runner)
        self.engine, self.refitter = engine, refitter
        self._weight_buffer, self._blender, self._contexts_survive = weight_buffer, blender, contexts_survive

    def validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Validates as the blender does; see `TensorRTBufferSet.validate_coefficients`."""
        return self._blender.validate_coefficients(coefficients)

    def apply_coefficients(self, coefficients: NDArray[np.float64]) -> None:
        """Queues the blend and the refit behind it; see `TensorRTBufferSet.apply_coefficients`."""
        if self.runner.has_context and self._contexts_survive:
            self.runner.invalidate_graph()
        elif self.runner.has_context:
            self.stream.synchronize()
            self.runner.destroy_context()
        self._blender.enqueue_blend(coefficients, self._weight_buffer, self.stream)
        self.refitter.refit()
        if not self.runner.has_context:  # of a plan without weights, too, no context is made before its first refit
            self.stream.synchronize()
            self.runner.create_context()


class RefitEngine(TensorRTEngine[RefitBufferSet]):
    """Per slot an engine of its own from the one plan, refitted from weights that are blended on the GPU."""

    name = "tensorrt"
    build_command = "dni-deploy build --engine tensorrt"

    def _describe_update_path(self) -> str:
        if self.library.features.device_weights:
            return "weights are blended on the GPU and refitted there, in the stream of the frames"
        return "weights are blended on the GPU and refitted through the host, because device memory is refitted from 9.1 on"

    def _make_buffer_sets(self, plan: Plan, device: Device) -> Iterator[RefitBufferSet]:
        layout, blender = self._upload_members(device)
        constants = self.network.collect_constants()
        for _ in range(self.slots):
            stream, weight_buffer = device.create_stream(), self._make_weight_buffer(device, layout)
            refit_weights = RefitWeights(device, layout, weight_buffer)
            self._free_at_close(refit_weights.free)
            engine = self._deserialize_plan(plan)
            if not engine.refittable:
                raise EngineError("The plan's engine cannot be refitted; build it again.")
            refitter = Refitter(engine, refit_weights, constants, self.library, stream)
            self._free_at_close(refitter.close)
            runner = self._make_runner(device, engine, stream)
            survive = self.library.features.device_weights
            yield RefitBufferSet(stream, runner, engine, refitter, weight_buffer, blender, survive)

    def finish_verification(self) -> None:
        """Discards the weights of the verification, and leaves out TensorRT's own look at the values from now on."""
        super().finish_verification()
        with self._device_context():
            for buffers in self._buffer_sets:
                buffers.refitter.disable_validation()

    def serialize(self, slot: int) -> bytes:
        """Returns the slot's engine with the weights that it has now, as TensorRT writes it.

        Raises:
            EngineError: The slot has no whole set of weights, or TensorRT failed.
        """
        with self._lock_slot(slot) as buffers:
            if buffers.unusable_reason is not None:
                raise EngineError(f"Slot {slot} cannot be written: {buffers.unusable_reason}.")
            buffers.stream.synchronize()
            serialized = buffers.engine.serialize()
            if serialized is None:
                raise self.library.make_error("serialize the refitted engine")
            return bytes(serialized)


class RtxRefitEngine(RefitEngine):
    """The same on TensorRT for RTX."""

    name = "tensorrt-rtx"
    library_name = "tensorrt-rtx"
    build_command = "dni-deploy build --engine tensorrt-rtx"


REFIT_ENGINES: Mapping[str, type[RefitEngine]] = {one.name: one for one in (RefitEngine, RtxRefitEngine)}
"""The engines that a user may choose, by name."""


class ConstantBufferSet(TensorRTBufferSet):
    """A slot whose weights are in the engine for good."""

    def validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Takes any."""
        return coefficients

    def apply_coefficients(self, coefficients: NDArray[np.float64]) -> None:
        """Does nothing."""


class ConstantEngine(TensorRTEngine[ConstantBufferSet]):
    """One engine that is not refitted, whatever alpha is: it runs what `serialize_refitted` wrote, to compare it."""

    name = "tensorrt-constant"
    blends = False

    def _describe_update_path(self) -> str:
        return "constant weights, whatever alpha is"

    def _make_buffer_sets(self, plan: Plan, device: Device) -> Iterator[ConstantBufferSet]:
        engine = self._deserialize_plan(plan)
        for _ in range(self.slots):
            stream = device.create_stream()
            runner = self._make_runner(device, engine, stream)
            runner.create_context()
            yield ConstantBufferSet(stream, runner)


def _require_weights(slot: int, buffers: TensorRTBufferSet) -> None:
    if buffers.unusable_reason is not None:
        raise EngineError(f"Slot {slot} cannot run: {buffers.unusable_reason}; refit it first.")


@contextmanager
def _mark_failures(buffers: TensorRTBufferSet) -> Iterator[None]:
    """Makes an error of the GPU an EngineError, and the slot unusable."""
    try:
        yield
    except cuda.Error as error:
        buffers.unusable_reason = f"the GPU failed ({summarize_message(str(error))})"
        raise _make_gpu_error(error) from error


def _make_gpu_error(error: Exception) -> EngineError:
    hint = " Close what else uses the GPU, or build for smaller frames." if isinstance(error, cuda.MemoryError) else ""
    return EngineError(f"The GPU failed: {summarize_message(str(error))}.{hint}")


def _suppress_cuda_errors(step: Callable[[], object]) -> None:
    """Runs a step of closing: a GPU that has failed fails again at each step, and the others are still to be done."""
    with suppress(cuda.Error, EngineError):
        step()

"""The engine whose weights are graph inputs, bound to memory that the blend kernel writes at a change of alpha.

One session and one stream for all slots: upload, blend, run and download are queued there in the order of the calls, so that
none of them waits for another one on the host. The pixels of rendered frames have streams of their own
(engines/cuda/frame_buffers.py).
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.calibration_table import CalibrationTable
from dni_deploy.errors import EngineError
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.signature import Signature
from dni_deploy.utils.onnxruntime_library import ort
from engines.cuda import backend as cuda
from engines.cuda.blender import DeviceBlender, WeightBuffer
from engines.cuda.device import Device
from engines.cuda.device_frame import CudaArray
from engines.cuda.frame_buffers import FrameRenderer
from engines.cuda.layout import DeviceLayout
from engines.cuda.members import DeviceMembers
from engines.interface import EngineOptions
from engines.lowering.gpu import LoweredGraph
from engines.lowering.weights_as_inputs import weights_as_inputs
from engines.onnxruntime_gpu.buffer_set import BoundBufferSet
from engines.onnxruntime_gpu.session import CUDA_PROVIDER, call_in_thread, make_provider_options, open_session

log = logging.getLogger(__name__)


class BoundEngine:
    """A `DeviceEngine` that owns the device's context and all that it makes in it.

    Attributes:
        replay: Whether frames are replayed as CUDA graphs. ONNX Runtime captures one per shape and slot, at the first such frame,
            and no other thread may call CUDA meanwhile, so one lock is then held for every call of every slot.

    Thread safety: any method from any thread; each slot has a lock.
    """

    name = "onnxruntime-gpu"

    def __init__(
        self,
        lowered: LoweredGraph,
        members: Sequence[Mapping[str, NDArray[Any]]],
        options: EngineOptions,
        *,
        provider: str = CUDA_PROVIDER,
        device_type: str = "cuda",
        calibration: CalibrationTable | None = None,
    ) -> None:
        """Opens session, members and slots; nothing is verified yet.

        Args:
            lowered: The lowered graph.
            members: Each member's weights by name, in the bundle's order.
            options: How to open it; its precision is the lowered graph's.
            provider: Execution provider of ONNX Runtime.
            device_type: ONNX Runtime's name of the provider's memory.
            calibration: The calibration table, or None.

        Raises:
            EngineError: The network cannot be opened.
            UnavailableError: There is no GPU, or the provider's libraries cannot be loaded.
            LimitError: There is no room on the GPU.
        """
        precision = options.precision or "fp32"
        self.update_path = (
            f"ONNX Runtime {ort.__version__} on the GPU, {precision}: the weights are inputs of the graph and lie where they are "
            "blended"
        )
        self.slots = options.slots or 1
        self.replay = options.cuda_graph
        self._buffer_sets: list[BoundBufferSet] = []
        self._session: ort.InferenceSession | None = None
        self._cleanup = ExitStack()  # device memory, freed newest first
        self._stream: Any = None
        # With CUDA graphs the provider keeps cuBLAS, cuDNN and the graphs for each thread that ever ran, so all runs are one
        # thread's. Without, a run takes them from a pool, and there is one run at a time (cuda_execution_provider.cc, OnRunEnd).
        self._run_thread = ThreadPoolExecutor(1, thread_name_prefix="CUDA graphs") if self.replay else None
        self._run_lock = threading.RLock()
        self._slot_locks = [self._run_lock if self.replay else threading.RLock() for _ in range(self.slots)]
        self._device: Device | None = Device.open(options.device)
        try:
            with self._device_context() as device:
                self._stream = device.create_stream()
                self._open_session(lowered, options, provider, precision)
                layout = DeviceLayout.from_lowered(lowered, () if calibration is None else calibration.statistics)
                device_members = DeviceMembers(device, layout, lowered.recipes, members, calibration)
                self._free_at_close(device_members.free)
                self._blender = DeviceBlender(device, device_members)
                next_graph_id = itertools.count(1).__next__ if self.replay else None
                for _ in range(self.slots):
                    weight_buffer = WeightBuffer(device, layout)
                    self._free_at_close(weight_buffer.free)
                    buffers = BoundBufferSet(
                        device, self._session, self._stream, weight_buffer, lowered.weights,
                        device_type=device_type, index=options.device, next_graph_id=next_graph_id, run_thread=self._run_thread,
                    )  # fmt: skip
                    self._buffer_sets.append(buffers)
                    self._free_at_close(buffers.free)
                self._frame_renderer = FrameRenderer(device)
                self._free_at_close(self._frame_renderer.close)
        except BaseException:
            self.close()
            raise

    def _open_session(self, lowered: LoweredGraph, options: EngineOptions, provider: str, precision: str) -> None:
        model = weights_as_inputs(lowered.graph, [weight.name for weight in lowered.weights])

        def open_bound_session(replay: bool) -> ort.InferenceSession:
            handle = int(self._stream.handle)
            on_gpu = provider == CUDA_PROVIDER
            provider_options = (
                make_provider_options(options.device, handle, tensor_cores=precision != "fp32", replay=replay) if on_gpu else {}
            )
            return open_session(model, provider, provider_options, options.threads or 1)

        try:
            self._session = call_in_thread(self._run_thread, open_bound_session, self.replay)
        except EngineError as error:
            if not self.replay:
                raise
            # Refused where a node that computes is not on the GPU, for one.
            self._stop_run_thread()
            self._session = open_bound_session(False)
            self.replay = False
            self.update_path += f"; without CUDA graphs, because {str(error).rstrip('.')}"

    # Engine

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Queues the blend into the slot's weights, as `Engine.refit`."""
        with self._lock_slot(slot) as buffers:
            started = time.perf_counter()
            coefficients = self._blender.validate_coefficients(np.asarray(coefficients, np.float64))  # may refuse: first of all
            buffers.has_weights = False
            self._blender.enqueue_blend(coefficients, buffers.weight_buffer, self._stream)
            buffers.mark_blended()
            buffers.has_weights = True
            log.debug("blend of slot %d queued in %.2f ms", slot, 1e3 * (time.perf_counter() - started))

    def synchronize(self, slot: int) -> None:
        """Waits for the slot's newest blend, as `Engine.synchronize`."""
        with self._lock_slot(slot) as buffers:
            buffers.synchronize()

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Uploads, runs and downloads, as `Engine.infer`."""
        with self._lock_slot(slot):
            self.upload(slot, x)
            self.enqueue(slot)
            return self.download(slot)

    def render(self, slot: int, frame: AnyFrame | CudaArray, signature: Signature) -> Any:
        """Renders a frame, as `Engine.render`; frames of several threads overlap, except where CUDA graphs are replayed.

        Args:
            slot: Number of the slot.
            frame: As `Engine.render`, or an array in the memory of this GPU, by CUDA's array interface.
            signature: Of the network.

        Returns:
            As `Engine.render`; for an array on the GPU a DeviceFrame (see engines/cuda/device_frame.py).
        """
        with self._slot_locks[slot] if self.replay else nullcontext(), self._device_context():
            return self._frame_renderer.render(frame, signature, lambda: self._lock_network(slot))

    # DeviceEngine

    def stream_handle(self, slot: int) -> int:
        """Returns the CUstream that all slots share, as `DeviceEngine.stream_handle`."""
        with self._lock_slot(slot):
            return int(self._stream.handle)

    def upload(self, slot: int, x: NDArray[np.float32]) -> None:
        """Queues the upload of an input, as `DeviceEngine.upload`."""
        with self._lock_slot(slot) as buffers:
            buffers.upload(np.asarray(x, np.float32))

    def enqueue(self, slot: int) -> None:
        """Queues one run, as `DeviceEngine.enqueue`."""
        with self._lock_network(slot) as network:
            network.enqueue()

    def download(self, slot: int) -> NDArray[np.float32]:
        """Waits for the newest output, as `DeviceEngine.download`."""
        with self._lock_slot(slot) as buffers:
            return buffers.download()

    def invalidate_weights(self) -> None:
        """Marks every slot's weights as undefined, so that it needs a refit."""
        for buffers in self._buffer_sets:
            buffers.has_weights = False

    def close(self) -> None:
        """Closes bindings, session, memory, stream and device, in this order, as `Engine.close`."""
        device, self._device = self._device, None
        if device is None:
            return
        with device:
            if self._stream is not None:
                _suppress_cuda_errors(self._stream.synchronize)
            for buffers in self._buffer_sets:
                buffers.release()
            self._session = None
            self._buffer_sets.clear()
            self._cleanup.close()
            self._stream = None
        self._stop_run_thread()
        device.close()

    def _stop_run_thread(self) -> None:
        if self._run_thread is not None:
            self._run_thread.shutdown()
            self._run_thread = None

    def _free_at_close(self, free: Callable[[], object]) -> None:
        self._cleanup.callback(_suppress_cuda_errors, free)

    @contextmanager
    def _device_context(self) -> Iterator[Device]:
        if self._device is None:
            raise EngineError("The engine is closed.")
        with self._device as device:
            try:
                yield device
            except cuda.Error as error:
                self.invalidate_weights()
                raise EngineError(f"The GPU failed: {str(error).rstrip('.')}.") from error

    @contextmanager
    def _lock_slot(self, slot: int) -> Iterator[BoundBufferSet]:
        with self._slot_locks[slot], self._device_context():
            yield self._buffer_sets[slot]

    @contextmanager
    def _lock_network(self, slot: int) -> Iterator[BoundBufferSet]:
        """Locks the slot, which has to have weights, and all runs.

        One run at a time: ONNX Runtime may give the memory of a run that is queued to the next one, which is right as long as the
        two are queued one after the other.
        """
        with self._lock_slot(slot) as buffers:
            if not buffers.has_weights:
                raise EngineError(f"Slot {slot} has no weights; refit it first.")
            with self._run_lock:
                buffers.replay = self.replay
                yield buffers


def _suppress_cuda_errors(step: Callable[[], object]) -> None:
    """Runs a step of closing: a GPU that has failed fails again at each step, and the others are still to be done."""
    with suppress(cuda.Error, EngineError):
        step()

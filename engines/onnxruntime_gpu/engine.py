"""Bound: the weights are inputs of the graph, bound to memory that the blend kernel writes. A change of alpha is that kernel alone.

One session and one stream for all slots: upload, blend, run and download are queued there in the order of the calls, so that none
of them waits for another one on the host.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import onnxruntime as ort
import pycuda.driver as cuda
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import BatchNormTable
from dni_deploy.errors import EngineError
from engines.cuda.blender import DeviceBlender, WeightBuffer
from engines.cuda.device import Device
from engines.cuda.layout import DeviceLayout
from engines.cuda.members import DeviceMembers
from engines.interface import EngineOptions
from engines.lowering.gpu import LoweredGraph
from engines.lowering.weights_as_inputs import weights_as_inputs
from engines.onnxruntime_gpu.buffer_set import BoundBufferSet
from engines.onnxruntime_gpu.session import CUDA_PROVIDER, make_provider_options, open_session


class BoundEngine:
    """A DeviceEngine (see engines/interface.py). It owns the device's context and all that it makes in it.

    replay   frames are replayed as CUDA_PROVIDER graphs. ONNX Runtime captures one per thread, shape and slot, at the first such frame,
             and no other thread may call CUDA_PROVIDER meanwhile, so one lock is then held for every call of every slot.
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
        recalibration: BatchNormTable | None = None,
    ) -> None:
        """provider, memory: the execution provider, and what its memory is called. Raises EngineError, UnavailableError, LimitError."""
        precision = "fp16" if any(weight.dtype == np.float16 for weight in lowered.weights) else "fp32"
        self.update_path = (
            f"ONNX Runtime {ort.__version__} on the GPU, {precision}: the weights are inputs of the graph and lie where they are "
            "blended"
        )
        self.slots = options.slots or 1
        self.replay = options.cuda_graph
        self._buffer_sets: list[BoundBufferSet] = []
        self._session: ort.InferenceSession | None = None
        self._members: DeviceMembers | None = None
        self._stream: Any = None
        self._run_lock = threading.RLock()
        self._slot_locks = [self._run_lock if self.replay else threading.RLock() for _ in range(self.slots)]
        self._device: Device | None = Device.open(options.device)
        try:
            with self._device_context() as device:
                self._stream = device.create_stream()
                self._open_session(lowered, options, provider)
                layout = DeviceLayout.from_lowered(lowered, () if recalibration is None else recalibration.statistics)
                self._members = DeviceMembers(device, layout, lowered.recipes, members, recalibration)
                self._blender = DeviceBlender(device, self._members)
                number = itertools.count(1).__next__ if self.replay else None
                for _ in range(self.slots):
                    live = WeightBuffer(device, layout)
                    try:
                        self._buffer_sets.append(
                            BoundBufferSet(
                                device, self._session, self._stream, live, lowered.weights,
                                device_type=device_type, index=options.device, next_graph_id=number,
                            )
                        )  # fmt: skip
                    except BaseException:
                        live.free()
                        raise
        except BaseException:
            self.close()
            raise

    def _open_session(self, lowered: LoweredGraph, options: EngineOptions, provider: str) -> None:
        model = weights_as_inputs(lowered.graph, [weight.name for weight in lowered.weights])

        def open_bound_session(replay: bool) -> ort.InferenceSession:
            told = (
                make_provider_options(options.device, int(self._stream.handle), replay=replay)
                if provider == CUDA_PROVIDER
                else {}
            )
            return open_session(model, provider, told, options.threads or 1)

        try:
            self._session = open_bound_session(self.replay)
        except EngineError as error:
            if not self.replay:
                raise
            # Refused where a node that computes is not on the GPU, for one.
            self._session = open_bound_session(False)
            self.replay = False
            self.update_path += f"; without CUDA graphs, because {str(error).rstrip('.')}"

    # Engine

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        with self._lock_slot(slot) as at:
            shares = self._blender.validate_coefficients(
                np.asarray(coefficients, np.float64)
            )  # what is refused leaves the slot as it was
            at.has_weights = False
            self._blender.enqueue_blend(shares, at.weight_buffer, self._stream)
            at.mark_blended()
            at.has_weights = True

    def synchronize(self, slot: int) -> None:
        with self._lock_slot(slot) as at:
            at.synchronize()

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock_slot(slot):
            self.upload(slot, x)
            self.enqueue(slot)
            return self.download(slot)

    # DeviceEngine

    def stream_handle(self, slot: int) -> int:
        with self._lock_slot(slot):
            return int(self._stream.handle)

    def upload(self, slot: int, x: NDArray[np.float32]) -> None:
        with self._lock_slot(slot) as at:
            at.upload(np.asarray(x, np.float32))

    def enqueue(self, slot: int) -> None:
        with self._lock_slot(slot) as at:
            if not at.has_weights:
                raise EngineError(f"Slot {slot} has no weights; refit it first.")
            # One at a time: ONNX Runtime may give the memory of a run that is queued to the next one, which is right as long
            # as the two are queued one after the other.
            with self._run_lock:
                at.enqueue(replay=self.replay)

    def download(self, slot: int) -> NDArray[np.float32]:
        with self._lock_slot(slot) as at:
            return at.download()

    def invalidate_weights(self) -> None:
        """Every slot waits for a refit."""
        for at in self._buffer_sets:
            at.has_weights = False

    def close(self) -> None:
        """Bindings, session, memory, stream, device. Calling it again does nothing."""
        device, self._device = self._device, None
        if device is None:
            return
        with device:
            if self._stream is not None:
                _suppress_cuda_errors(self._stream.synchronize)
            for at in self._buffer_sets:
                at.release()
            self._session = None
            for at in self._buffer_sets:
                _suppress_cuda_errors(at.free)
            self._buffer_sets.clear()
            if self._members is not None:
                _suppress_cuda_errors(self._members.free)
            self._members = self._stream = None
        device.close()

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


def _suppress_cuda_errors(step: Callable[[], object]) -> None:
    """On the way out: a GPU that has failed fails again at each step, and the others are still to be done."""
    with suppress(cuda.Error, EngineError):
        step()

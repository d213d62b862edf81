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

from dni_deploy.blending.batchnorm_stats import Recalibration
from dni_deploy.errors import EngineError
from engines.cuda.blender import DeviceBlender, Live
from engines.cuda.device import Device
from engines.cuda.layout import DeviceLayout
from engines.cuda.members import Members
from engines.lowering.gpu import Lowered
from engines.lowering.weights_as_inputs import weights_as_inputs
from engines.onnxruntime_gpu.session import CUDA, open_session, provider_options
from engines.onnxruntime_gpu.slot import Slot
from engines.options import EngineOptions


class BoundEngine:
    """A DeviceEngine (see engines/interface.py). It owns the device's context and all that it makes in it.

    replay   frames are replayed as CUDA graphs. ONNX Runtime captures one per thread, shape and slot, at the first such frame,
             and no other thread may call CUDA meanwhile, so one lock is then held for every call of every slot.
    """

    name = "onnxruntime-gpu"

    def __init__(
        self,
        lowered: Lowered,
        members: Sequence[Mapping[str, NDArray[Any]]],
        options: EngineOptions,
        *,
        provider: str = CUDA,
        memory: str = "cuda",
        recalibration: Recalibration | None = None,
    ) -> None:
        """provider, memory: the execution provider, and what its memory is called. Raises EngineError, EnvironmentProblem, LimitError."""
        precision = "fp16" if any(weight.dtype == np.float16 for weight in lowered.weights) else "fp32"
        self.road = (
            f"ONNX Runtime {ort.__version__} on the GPU, {precision}: the weights are inputs of the graph and lie where they are "
            "blended"
        )
        self.slots = options.slots or 1
        self.replay = options.cuda_graph
        self._all: list[Slot] = []
        self._session: ort.InferenceSession | None = None
        self._members: Members | None = None
        self._stream: Any = None
        self._running = threading.RLock()
        self._locks = [self._running if self.replay else threading.RLock() for _ in range(self.slots)]
        self._device: Device | None = Device.open(options.device)
        try:
            with self._held() as device:
                self._stream = device.stream()
                self._open(lowered, options, provider)
                layout = DeviceLayout.of(lowered, () if recalibration is None else recalibration.statistics)
                self._members = Members(device, layout, lowered.recipes, members, recalibration)
                self._blender = DeviceBlender(device, self._members)
                number = itertools.count(1).__next__ if self.replay else None
                for _ in range(self.slots):
                    live = Live(device, layout)
                    try:
                        self._all.append(
                            Slot(
                                device, self._session, self._stream, live, lowered.weights,
                                memory=memory, index=options.device, number=number,
                            )
                        )  # fmt: skip
                    except BaseException:
                        live.free()
                        raise
        except BaseException:
            self.close()
            raise

    def _open(self, lowered: Lowered, options: EngineOptions, provider: str) -> None:
        model = weights_as_inputs(lowered.graph, [weight.name for weight in lowered.weights])

        def opened(replay: bool) -> ort.InferenceSession:
            told = provider_options(options.device, int(self._stream.handle), replay=replay) if provider == CUDA else {}
            return open_session(model, provider, told, options.threads or 1)

        try:
            self._session = opened(self.replay)
        except EngineError as error:
            if not self.replay:
                raise
            # Refused where a node that computes is not on the GPU, for one.
            self._session = opened(False)
            self.replay = False
            self.road += f"; without CUDA graphs, because {str(error).rstrip('.')}"

    # Engine

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        with self._holding(slot) as at:
            shares = self._blender.taken(np.asarray(coefficients, np.float64))  # what is refused leaves the slot as it was
            at.usable = False
            self._blender.queue(shares, at.live, self._stream)
            at.blended()
            at.usable = True

    def finish(self, slot: int) -> None:
        with self._holding(slot) as at:
            at.finish()

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._holding(slot):
            self.place(slot, x)
            self.enqueue(slot)
            return self.fetch(slot)

    # DeviceEngine

    def stream_handle(self, slot: int) -> int:
        with self._holding(slot):
            return int(self._stream.handle)

    def place(self, slot: int, x: NDArray[np.float32]) -> None:
        with self._holding(slot) as at:
            at.place(np.asarray(x, np.float32))

    def enqueue(self, slot: int) -> None:
        with self._holding(slot) as at:
            if not at.usable:
                raise EngineError(f"Slot {slot} has no weights; refit it first.")
            # One at a time: ONNX Runtime may give the memory of a run that is queued to the next one, which is right as long
            # as the two are queued one after the other.
            with self._running:
                at.enqueue(replay=self.replay)

    def fetch(self, slot: int) -> NDArray[np.float32]:
        with self._holding(slot) as at:
            return at.fetch()

    def invalidate(self) -> None:
        """Every slot waits for a refit."""
        for at in self._all:
            at.usable = False

    def close(self) -> None:
        """Bindings, session, memory, stream, device. Calling it again does nothing."""
        device, self._device = self._device, None
        if device is None:
            return
        with device:
            if self._stream is not None:
                _quietly(self._stream.synchronize)
            for at in self._all:
                at.release()
            self._session = None
            for at in self._all:
                _quietly(at.free)
            self._all.clear()
            if self._members is not None:
                _quietly(self._members.free)
            self._members = self._stream = None
        device.close()

    @contextmanager
    def _held(self) -> Iterator[Device]:
        if self._device is None:
            raise EngineError("The engine is closed.")
        with self._device as device:
            try:
                yield device
            except cuda.Error as error:
                self.invalidate()
                raise EngineError(f"The GPU failed: {str(error).rstrip('.')}.") from error

    @contextmanager
    def _holding(self, slot: int) -> Iterator[Slot]:
        with self._locks[slot], self._held():
            yield self._all[slot]


def _quietly(step: Callable[[], object]) -> None:
    """On the way out: a GPU that has failed fails again at each step, and the others are still to be done."""
    with suppress(cuda.Error, EngineError):
        step()

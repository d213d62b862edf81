"""Slot: one set of weights with what a frame on it needs: bindings, buffers, and the events that are waited for.

Every method wants the device held, and calls for one slot from one thread at a time. All is queued on the one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import pycuda.driver as cuda
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from engines.cuda.blender import Live
from engines.cuda.device import Device
from engines.cuda.memory import Buffer, Staging
from engines.lowering.gpu import Weight
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_gpu.session import run_options

Place = tuple[tuple[int, ...], int, int]
"""Of a frame: its shape, and the addresses of its input and output."""


class Slot:
    """weights are bound to `live` once and for all: what is blended into it is what the next run reads.

    memory     "cuda", or "cpu" where the tests run it; index: the GPU's number.
    number     gives a new number for a CUDA graph; None where frames are not replayed.
    """

    def __init__(
        self,
        device: Device,
        session: ort.InferenceSession,
        stream: Any,
        live: Live,
        weights: Sequence[Weight],
        *,
        memory: str,
        index: int,
        number: Callable[[], int] | None,
    ) -> None:
        self.live = live
        self.usable = False
        self._device, self._session, self._stream = device, session, stream
        self._memory, self._index, self._number = memory, index, number
        names = {weight.name for weight in weights}
        self._input: str = next(value.name for value in session.get_inputs() if value.name not in names)
        self._output: str = session.get_outputs()[0].name
        self._binding: ort.IOBinding | None = session.io_binding()
        for weight in weights:
            self._binding.bind_input(
                weight.name, memory, index, weight.dtype.type, list(weight.shape), live.pointer(weight.name)
            )
        self._buffers: dict[str, Buffer] = {}
        self._staging_in, self._staging_out = Staging(device), Staging(device)
        self._uploaded, self._blended, self._downloaded = (cuda.Event(cuda.event_flags.DISABLE_TIMING) for _ in range(3))
        self._results: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._graphs: dict[Place, ort.RunOptions] = {}
        self._plain = run_options(None)
        self._placed: tuple[int, ...] | None = None
        self._bound: Place | None = None
        self._ran = False

    def blended(self) -> None:
        """Note that the blend was queued."""
        self._blended.record(self._stream)

    def finish(self) -> None:
        """Wait for the newest blend, and for nothing that was queued behind it."""
        self._blended.synchronize()

    def place(self, x: NDArray[np.float32]) -> None:
        """Queue the upload of a frame, read before this returns."""
        self._grow("in", x.nbytes)
        self._uploaded.synchronize()  # the last upload may still read the staging memory
        held = self._staging_in.array(x.shape, np.float32)
        np.copyto(held, x)
        self._buffers["in"].upload(held, self._stream)
        self._uploaded.record(self._stream)
        self._placed = x.shape

    def enqueue(self, *, replay: bool) -> None:
        """Queue one run on the frame that was placed last. Raises EngineError."""
        if self._placed is None:
            raise EngineError("No input was placed; place one first.")
        place = self._bind(self._placed)
        options = self._plain
        if replay and self._number is not None:
            if place not in self._graphs:
                self._graphs[place] = run_options(self._number())
            options = self._graphs[place]
        self._run(options)
        self._ran = True

    def fetch(self) -> NDArray[np.float32]:
        """Wait for the newest output and return it, fresh."""
        if not self._ran or self._bound is None:
            raise EngineError("Nothing was run; place an input and enqueue first.")
        held = self._staging_out.array(self._results[self._bound[0]], np.float32)
        self._buffers["out"].download(held, self._stream)
        self._downloaded.record(self._stream)
        self._downloaded.synchronize()
        return np.array(held)

    def release(self) -> None:
        """Let go of the session. Nothing may be queued."""
        self._binding = self._session = None

    def free(self) -> None:
        """Free the memory, after `release`. Calling it again does nothing."""
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._staging_in.free()
        self._staging_out.free()
        self.live.free()
        self._uploaded = self._blended = self._downloaded = self._stream = None

    def _bind(self, shape: tuple[int, ...]) -> Place:
        """Bind the frame's input and output, unless they are. The size of the output is learnt by a run, once per shape."""
        binding, source = self._binding, self._buffers["in"].pointer
        assert binding is not None
        known = self._results.get(shape)
        if known is not None and self._bound == (shape, source, self._buffers["out"].pointer):
            return self._bound
        self._bound, self._ran = None, False
        binding.bind_input(self._input, self._memory, self._index, np.float32, list(shape), source)
        if known is None:
            binding.bind_output(self._output, self._memory, self._index)  # ONNX Runtime allocates it
            self._run(self._plain)
            self._stream.synchronize()
            known = tuple(binding.get_outputs()[0].shape())
            binding.clear_binding_outputs()
        self._grow("out", int(np.prod(known)) * 4)
        self._results[shape] = known
        target = self._buffers["out"].pointer
        binding.bind_output(self._output, self._memory, self._index, np.float32, list(known), target)
        self._bound = (shape, source, target)
        return self._bound

    def _run(self, options: ort.RunOptions) -> None:
        if self._session is None:
            raise EngineError("The engine is closed.")
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # its exceptions share no base class but RuntimeError and Exception
            raise EngineError(
                f"ONNX Runtime could not run an input of shape {self._placed}: {runtime.sentence(error)}"
            ) from error

    def _grow(self, name: str, nbytes: int) -> None:
        """A buffer of at least this size."""
        held = self._buffers.get(name)
        if held is not None and held.nbytes >= nbytes:
            return
        if held is not None:
            self._stream.synchronize()  # what is queued may use it
            del self._buffers[name]
            held.free()
        self._buffers[name] = Buffer(self._device, nbytes)

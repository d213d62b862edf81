"""One set of weights with what a frame on it needs: bindings, buffers, and the events that are waited for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from dni_deploy.utils.onnxruntime_library import ort
from engines import ort_session
from engines.cuda import backend as cuda
from engines.cuda.blender import WeightBuffer
from engines.cuda.device import Device
from engines.cuda.memory import Buffer, Staging
from engines.lowering.gpu import LoweredWeight
from engines.onnxruntime_gpu.session import call_in_thread, make_run_options

FrameBinding = tuple[tuple[int, ...], int, int]
"""Shape of a frame, and the addresses of its input and output."""


class BoundBufferSet:
    """One slot of a `BoundEngine`, and a `DeviceNetwork` (see engines/cuda/frame_buffers.py).

    The weights are bound to `weight_buffer` once: what is blended into it is what the next run reads. Everything is queued on
    the engine's one stream.

    Attributes:
        weight_buffer: The slot's weights on the device; the engine owns them.
        has_weights: Whether a whole blend was queued.
        stream: The engine's stream.
        replay: Replay runs as CUDA graphs, each of which is captured at the first frame of its shape and addresses.

    Thread safety: the caller holds the device, and calls from one thread at a time.
    """

    def __init__(
        self,
        device: Device,
        session: ort.InferenceSession,
        stream: Any,
        weight_buffer: WeightBuffer,
        weights: Sequence[LoweredWeight],
        *,
        device_type: str,
        index: int,
        next_graph_id: Callable[[], int] | None,
        run_thread: ThreadPoolExecutor | None,
    ) -> None:
        """Binds the weights.

        Args:
            device: The device, held by the caller.
            session: The engine's session, which all slots share.
            stream: The engine's stream.
            weight_buffer: Memory of the weights.
            weights: The weights, which are inputs of the session.
            device_type: ONNX Runtime's name of the memory: "cuda", or "cpu" in tests.
            index: Number of the GPU.
            next_graph_id: Makes a new number for a CUDA graph; None where frames are not replayed.
            run_thread: Where the session runs; None for the caller's own thread.
        """
        self.weight_buffer, self._run_thread = weight_buffer, run_thread
        self.has_weights = False
        self.replay = False
        self._device, self._session, self.stream = device, session, stream
        self._device_type, self._index, self._next_graph_id = device_type, index, next_graph_id
        names = {weight.name for weight in weights}
        self._input: str = next(value.name for value in session.get_inputs() if value.name not in names)
        self._output: str = session.get_outputs()[0].name
        self._binding: ort.IOBinding | None = session.io_binding()
        for weight in weights:
            self._binding.bind_input(
                weight.name, device_type, index, weight.dtype.type, list(weight.shape), weight_buffer.pointer_of(weight.name)
            )
        self._buffers: dict[str, Buffer] = {}
        self._staging_in, self._staging_out = Staging(device), Staging(device)
        self._uploaded_event, self._blended_event, self._downloaded_event = (
            cuda.Event(cuda.event_flags.DISABLE_TIMING) for _ in range(3)
        )
        self._output_shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._graph_run_options: dict[FrameBinding, ort.RunOptions] = {}
        self._plain_run_options = make_run_options(None)
        self._input_shape: tuple[int, ...] | None = None
        self._current_binding: FrameBinding | None = None
        self._has_run = False

    def mark_blended(self) -> None:
        """Records that the blend was queued."""
        self._blended_event.record(self.stream)

    def synchronize(self) -> None:
        """Waits for the newest blend, and for nothing that was queued behind it."""
        self._blended_event.synchronize()

    def prepare_input(self, shape: tuple[int, ...]) -> int:
        """Makes room for an input; see `DeviceNetwork.prepare_input`."""
        self._input_shape = None
        self._ensure_buffer("in", 4 * math.prod(shape))
        self._input_shape = shape
        return self._buffers["in"].pointer

    def upload(self, x: NDArray[np.float32]) -> None:
        """Queues the upload of a frame, float32 (N, C, H, W), which is read before this returns."""
        self.prepare_input(x.shape)
        self._input_shape = None  # until it is whole
        self._uploaded_event.synchronize()  # the last upload may still read the staging memory
        staged = self._staging_in.get_array(x.shape, np.float32)
        np.copyto(staged, x)
        self._buffers["in"].upload(staged, self.stream)
        self._uploaded_event.record(self.stream)
        self._input_shape = x.shape

    def enqueue(self) -> None:
        """Queues one run on the newest input.

        Raises:
            EngineError: There is none, or ONNX Runtime cannot run it.
        """
        if self._input_shape is None:
            raise EngineError("No input was uploaded; upload one first.")
        frame = self._bind_frame(self._input_shape)
        options = self._plain_run_options
        if self.replay and self._next_graph_id is not None:
            if frame not in self._graph_run_options:
                self._graph_run_options[frame] = make_run_options(self._next_graph_id())
            options = self._graph_run_options[frame]
        self._run_session(options)
        self._has_run = True

    def get_output(self) -> tuple[tuple[int, ...], int]:
        """Returns shape and address of the newest output; see `DeviceNetwork.get_output`."""
        assert self._current_binding is not None
        shape, _, target = self._current_binding
        return self._output_shapes[shape], target

    def download(self) -> NDArray[np.float32]:
        """Waits for the newest output.

        Returns:
            A fresh array, float32 (N, C', H', W').

        Raises:
            EngineError: Nothing was run.
        """
        if not self._has_run or self._current_binding is None:
            raise EngineError("Nothing was run; upload an input and enqueue first.")
        staged = self._staging_out.get_array(self._output_shapes[self._current_binding[0]], np.float32)
        self._buffers["out"].download(staged, self.stream)
        self._downloaded_event.record(self.stream)
        self._downloaded_event.synchronize()
        return np.array(staged)

    def release(self) -> None:
        """Drops the session. Nothing may be queued."""
        self._binding = self._session = None

    def free(self) -> None:
        """Frees the frame's memory, after `release`; calling it again does nothing."""
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._staging_in.free()
        self._staging_out.free()
        self._uploaded_event = self._blended_event = self._downloaded_event = self.stream = None  # type: ignore[assignment]

    def _bind_frame(self, shape: tuple[int, ...]) -> FrameBinding:
        """Binds the frame's input and output, unless they are bound. A run tells the size of the output, once per shape."""
        binding, source = self._binding, self._buffers["in"].pointer
        assert binding is not None
        output_shape, output = self._output_shapes.get(shape), self._buffers.get("out")
        if output is not None and self._current_binding == (shape, source, output.pointer):
            return self._current_binding
        self._current_binding, self._has_run = None, False
        binding.bind_input(self._input, self._device_type, self._index, np.float32, list(shape), source)
        if output_shape is None:
            binding.bind_output(self._output, self._device_type, self._index)  # ONNX Runtime allocates it
            self._run_session(self._plain_run_options)
            self.stream.synchronize()
            output_shape = tuple(binding.get_outputs()[0].shape())
            binding.clear_binding_outputs()
        self._ensure_buffer("out", int(np.prod(output_shape)) * 4)
        self._output_shapes[shape] = output_shape
        target = self._buffers["out"].pointer
        binding.bind_output(self._output, self._device_type, self._index, np.float32, list(output_shape), target)
        self._current_binding = (shape, source, target)
        return self._current_binding

    def _run_session(self, options: ort.RunOptions) -> None:
        if self._session is None:
            raise EngineError("The engine is closed.")
        try:
            call_in_thread(self._run_thread, self._session.run_with_iobinding, self._binding, options)
        except Exception as error:  # its exceptions share no base class but RuntimeError and Exception
            raise EngineError(
                f"ONNX Runtime could not run an input of shape {self._input_shape}: {ort_session.summarize_error(error)}"
            ) from error

    def _ensure_buffer(self, name: str, nbytes: int) -> None:
        """Makes sure that a buffer has at least this size."""
        buffer = self._buffers.get(name)
        if buffer is not None and buffer.nbytes >= nbytes:
            return
        if buffer is not None:
            self.stream.synchronize()  # what is queued may use it
            del self._buffers[name]
            buffer.free()
        self._buffers[name] = Buffer(self._device, nbytes)

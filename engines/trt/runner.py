"""Runs frames: one execution context with its buffers; a frame goes through it by upload, enqueue and download.

Buffers grow to the largest frame so far and are kept. With `replay`, a frame of the same shape as the last one is replayed as a
CUDA graph, which saves the launch of each kernel; the graph is captured at the second such frame, because TensorRT does work of
its own at the first one with a new shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, UsageError, escape_name
from engines.cuda import backend as cuda
from engines.cuda.cuda_graph import CudaGraph, abort_capture, begin_capture, end_capture
from engines.cuda.device import Device
from engines.cuda.memory import Buffer, Staging
from engines.profile import Profile
from engines.trt.execution_contexts import ExecutionContexts


class Runner:
    """Runs frames on one engine and one stream, which the caller owns; input, output and staging buffers are the runner's.

    It is a `DeviceNetwork` (see engines/cuda/frame_buffers.py).

    Attributes:
        stream: The slot's stream; everything is queued on it.
        replay: Replay frames as CUDA graphs.
        keep_graph_over_refit: A captured graph sees weights that were refitted after it, so that `invalidate_graph` keeps it.

    Thread safety: the caller holds the device, and calls come from one thread at a time.
    """

    def __init__(
        self,
        device: Device,
        contexts: ExecutionContexts,
        engine: Any,
        stream: Any,
        profile: Profile,
        fixed_addresses: Mapping[str, int] | None = None,
        *,
        replay: bool = False,
    ) -> None:
        """Looks up the engine's input and output; `create_context` makes the context.

        Args:
            device: The device.
            contexts: Makes the context, and lends it its memory.
            engine: The engine, until `close`.
            stream: The slot's stream; everything is queued on it.
            profile: Shapes that the engine takes.
            fixed_addresses: Device addresses of the inputs beside the frame, by name; what is there may change.
            replay: Replay frames as CUDA graphs.

        Raises:
            EngineError: The engine's inputs are not the bundle's, or not float32.
        """
        self._device, self._engine, self.stream, self._profile = device, engine, stream, profile
        self._contexts, self._library = contexts, contexts.library
        self._fixed_addresses = dict(fixed_addresses or {})
        self.replay, self.keep_graph_over_refit = replay, False
        self._input_name, self._output_name = _find_input_and_output(self._library.trt, engine, self._fixed_addresses)
        self._buffers: dict[str, Buffer] = {}
        self._staging_in, self._staging_out = Staging(device), Staging(device)
        self._uploaded_event: Any = None
        self._context: Any = None
        self._context_bytes = self._memory_address = 0
        self._graph: CudaGraph | None = None
        self._stale_graph: CudaGraph | None = None  # captured before the last refit, and updated by the next capture
        self._input_shape: tuple[int, ...] | None = None
        self._context_shape: tuple[int, ...] | None = None
        self._output_shape: tuple[int, ...] = ()
        self._is_warm = self._has_run = False

    @property
    def has_context(self) -> bool:
        """Whether there is an execution context; of a plan without weights there is none before the first refit."""
        return self._context is not None

    @property
    def has_captured_graph(self) -> bool:
        """Whether the next frame of the same shape as the last one is a replay."""
        return self._graph is not None

    def create_context(self) -> None:
        """Makes a new execution context. Nothing may be queued.

        Raises:
            EngineError: TensorRT refuses; there may be too little memory.
        """
        self.destroy_context()
        self._context = self._contexts.create_context(self._engine, replay=self.replay)
        for name, address in self._fixed_addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._library.make_error(f"use the memory of the input {escape_name(name)!r}")

    def destroy_context(self) -> None:
        """Drops the execution context and what was captured with it. Nothing may be queued."""
        self._destroy_graph()
        self._context_shape = None
        self._memory_address = 0
        self._context = None

    def invalidate_graph(self) -> None:
        """Drops a captured graph, because the engine's weights have changed, unless it is known to see them."""
        if not self.keep_graph_over_refit:
            self._is_warm = False
            self._stale_graph, self._graph = self._graph or self._stale_graph, None

    def prepare_input(self, shape: tuple[int, ...]) -> int:
        """Makes room for an input; see `DeviceNetwork.prepare_input`."""
        if not self._profile.contains_shape(shape):
            raise UsageError(
                f"The plan takes inputs of {self._profile}; got {'x'.join(map(str, shape))}. Build one for larger frames with "
                "dni-deploy build --max, or run in tiles with --tile."
            )
        self._input_shape = None
        self._ensure_buffer("in", 4 * math.prod(shape))
        self._input_shape = shape
        return self._buffers["in"].pointer

    def upload(self, x: NDArray[np.float32]) -> None:
        """Queues the upload of a frame.

        Args:
            x: float32 (N, C, H, W), read before this returns.

        Raises:
            UsageError: The shape is outside the profile.
            LimitError: There is no room for it.
        """
        self.prepare_input(x.shape)
        self._input_shape = None  # until it is whole
        if self._uploaded_event is not None:
            self._uploaded_event.synchronize()  # the last upload may still read the staging memory
        else:
            self._uploaded_event = cuda.Event(cuda.event_flags.DISABLE_TIMING)
        staged = self._staging_in.get_array(x.shape, np.float32)
        np.copyto(staged, x)
        self._buffers["in"].upload(staged, self.stream)
        self._uploaded_event.record(self.stream)
        self._input_shape = x.shape

    def enqueue(self) -> None:
        """Queues one run on the newest input.

        Raises:
            EngineError: There is none, or TensorRT refuses.
        """
        if self._context is None or self._input_shape is None:
            raise EngineError("No input was uploaded; upload one first.")
        self._library.clear_errors()
        if self._input_shape != self._context_shape:
            self._set_shape(self._input_shape)
        if self._contexts.memory is None:
            self._queue_run()
        else:
            with self._contexts.memory.lend(self._context_bytes, self.stream) as address:
                self._set_context_memory(address)
                self._queue_run()
        self._is_warm = self._has_run = True

    def get_output(self) -> tuple[tuple[int, ...], int]:
        """Returns shape and address of the newest output; see `DeviceNetwork.get_output`."""
        return self._output_shape, self._buffers["out"].pointer

    def download(self) -> NDArray[np.float32]:
        """Waits for what is queued and returns the newest output.

        Returns:
            float32 (N, C', H', W'), an array of the caller's.

        Raises:
            EngineError: Nothing was run.
        """
        if not self._has_run:
            raise EngineError("Nothing was run; upload an input and enqueue first.")
        staged = self._staging_out.get_array(self._output_shape, np.float32)
        self._buffers["out"].download(staged, self.stream)
        self.stream.synchronize()
        return np.array(staged)

    def reset(self) -> None:
        """Forgets the last frame and its output: another one is uploaded before the next run."""
        self._input_shape, self._has_run = None, False

    def close(self) -> None:
        """Frees the context, which TensorRT wants gone before what lies under it, then the buffers. Nothing may be queued."""
        self.destroy_context()
        self._engine = None
        self._uploaded_event = None
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._staging_in.free()
        self._staging_out.free()
        self.stream = None

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        """Sets a new shape, and where its input and output are. Drops the graph of the old one."""
        self._destroy_graph()
        self._context_shape, self._has_run = None, False
        if not self._context.set_input_shape(self._input_name, shape):
            raise self._library.make_error(f"take an input of {'x'.join(map(str, shape))}")
        self._output_shape = tuple(self._context.get_tensor_shape(self._output_name))
        if min(self._output_shape, default=0) < 1:
            raise self._library.make_error(f"compute the output's shape for an input of {'x'.join(map(str, shape))}")
        self._ensure_buffer("out", int(np.prod(self._output_shape)) * 4)
        for name, buffer in ((self._input_name, "in"), (self._output_name, "out")):
            if not self._context.set_tensor_address(name, self._buffers[buffer].pointer):
                raise self._library.make_error(f"use the memory for {escape_name(name)!r}")
        if self._contexts.memory is not None:
            self._context_bytes, self._memory_address = int(self._context.update_device_memory_size_for_shapes()), 0
        self._context_shape = shape

    def _set_context_memory(self, address: int) -> None:
        """Tells the context where its memory is, which a captured graph does not know when it has moved."""
        if address != self._memory_address:
            self._destroy_graph()
            self._context.set_device_memory(address, self._context_bytes)
            self._memory_address = address

    def _queue_run(self) -> None:
        handle = self.stream.handle
        if self._graph is None and self.replay and self._is_warm and not self._library.features.own_cuda_graphs:
            self._capture_graph(handle)
        if self._graph is not None:
            self._graph.launch(handle)
        elif not self._context.execute_async_v3(handle):
            raise self._library.make_error("queue the network")

    def _capture_graph(self, handle: int) -> None:
        begin_capture(handle)
        try:
            queued = self._context.execute_async_v3(handle)
        except BaseException:
            abort_capture()
            raise
        if not queued:
            abort_capture()
            raise self._library.make_error("be captured in a CUDA graph", "Open it without cuda_graph.")
        self._graph = end_capture(handle, self._stale_graph)
        self._stale_graph = None

    def _destroy_graph(self) -> None:
        self._is_warm = False
        for graph in (self._graph, self._stale_graph):
            if graph is not None:
                graph.close()  # one that is running is freed when it has ended
        self._graph = self._stale_graph = None

    def _ensure_buffer(self, name: str, nbytes: int) -> None:
        """Makes the buffer at least this large; the context and a captured graph do not know a new one's address."""
        buffer = self._buffers.get(name)
        if buffer is not None and buffer.nbytes >= nbytes:
            return
        if buffer is not None:
            self._destroy_graph()
            self._context_shape = None
            self.stream.synchronize()
            del self._buffers[name]
            buffer.free()
        self._buffers[name] = Buffer(self._device, nbytes)


def _find_input_and_output(trt: Any, engine: Any, fixed_addresses: Mapping[str, int]) -> tuple[str, str]:
    """Returns the names of the one input that is not fixed and of the first output, both float32."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    frames = [name for name in inputs if name not in fixed_addresses]
    missing = [name for name in fixed_addresses if name not in inputs]
    if len(frames) != 1 or not outputs or missing:
        raise EngineError(
            f"The plan has the inputs {escape_name(', '.join(inputs))} and not those of the bundle; build it again."
        )
    for name in (frames[0], outputs[0]):
        if engine.get_tensor_dtype(name) != trt.DataType.FLOAT:
            raise EngineError(f"The plan has {escape_name(name)!r} in another type than float32; build it again.")
    return frames[0], outputs[0]

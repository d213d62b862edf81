"""Runner: one execution context with its stream and its buffers; a frame goes through it by place, enqueue, fetch.

Buffers grow to the largest frame that came and are kept. With `replay`, a frame whose shape the last one had is replayed as a
CUDA graph, which spares the launch of each kernel; the graph is captured at the second such frame, since TensorRT does work of its
own at the first one with new shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pycuda.driver as cuda
import tensorrt as trt
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, UsageError, escape_name
from engines.cuda.cuda_graph import CudaGraph, abort_capture, begin_capture, end_capture
from engines.cuda.device import Device
from engines.cuda.memory import Buffer, Staging
from engines.profile import Profile
from engines.trt import messages
from engines.trt.messages import make_engine_error


class Runner:
    """For one engine and one stream, which the caller owns. Every method wants the device held, and calls from one thread at a time.

    fixed    addresses of the inputs beside the picture, by name; what lies there may change, the addresses do not.
    replay   replay frames as CUDA graphs.
    keeps    a captured graph sees weights that were refitted after it; then it is kept over `invalidate_graph`.
    """

    def __init__(
        self,
        device: Device,
        engine: Any,
        stream: Any,
        profile: Profile,
        fixed_addresses: Mapping[str, int] | None = None,
        *,
        replay: bool = False,
    ) -> None:
        self._device, self._engine, self._stream, self._profile = device, engine, stream, profile
        self._fixed_addresses = dict(fixed_addresses or {})
        self.replay, self.keep_graph_over_refit = replay, False
        self._input_name, self._output_name = _find_input_and_output(engine, self._fixed_addresses)
        self._buffers: dict[str, Buffer] = {}
        self._staging_in, self._staging_out = Staging(device), Staging(device)
        self._uploaded_event: Any = None
        self._context: Any = None
        self._graph: CudaGraph | None = None
        self._input_shape: tuple[int, ...] | None = None
        self._context_shape: tuple[int, ...] | None = None
        self._output_shape: tuple[int, ...] = ()
        self._is_warm = self._has_run = False

    @property
    def has_context(self) -> bool:
        """Whether there is an execution context. The first `create_context` makes one: of a plan without weights, after the first refit."""
        return self._context is not None

    @property
    def has_captured_graph(self) -> bool:
        """Whether the next frame of the last one's shape is a replay."""
        return self._graph is not None

    def create_context(self) -> None:
        """A new execution context, for a TensorRT whose contexts do not outlive a refit. Nothing may be queued."""
        self.destroy_context()
        messages.clear_errors()
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise make_engine_error("make an execution context", "There may be too little GPU memory for this profile.")
        for name, address in self._fixed_addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise make_engine_error(f"take the input {escape_name(name)!r} from where it lies")

    def destroy_context(self) -> None:
        """Drop the execution context and what was captured with it."""
        self._destroy_graph()
        self._context_shape = None
        self._context = None

    def invalidate_graph(self) -> None:
        """The engine's weights are others now: a captured graph is dropped, unless it is known to see them."""
        if not self.keep_graph_over_refit:
            self._destroy_graph()

    def upload(self, x: NDArray[np.float32]) -> None:
        """Queue the upload of a frame: float32 (N, C, H, W), read before this returns."""
        if not self._profile.contains_shape(x.shape):
            raise UsageError(
                f"The plan takes inputs of {self._profile}; got {'x'.join(map(str, x.shape))}. Build one for larger frames with "
                "dni-deploy build --max, or run in tiles with --tile."
            )
        self._input_shape = None  # until it is whole
        self._ensure_buffer("in", x.nbytes)
        if self._uploaded_event is not None:
            self._uploaded_event.synchronize()  # the last upload may still read the staging memory
        else:
            self._uploaded_event = cuda.Event(cuda.event_flags.DISABLE_TIMING)
        held = self._staging_in.get_array(x.shape, np.float32)
        np.copyto(held, x)
        self._buffers["in"].upload(held, self._stream)
        self._uploaded_event.record(self._stream)
        self._input_shape = x.shape

    def enqueue(self) -> None:
        """Queue one run on the frame that was placed last. Raises EngineError."""
        if self._context is None or self._input_shape is None:
            raise EngineError("No input was placed; place one first.")
        messages.clear_errors()
        if self._input_shape != self._context_shape:
            self._set_shape(self._input_shape)
        handle = self._stream.handle
        if self._graph is None and self.replay and self._is_warm:
            self._capture_graph(handle)
        if self._graph is not None:
            self._graph.launch(handle)
        elif not self._context.execute_async_v3(handle):
            raise make_engine_error("queue the network")
        self._is_warm = self._has_run = True

    def download(self) -> NDArray[np.float32]:
        """Wait for what is queued and return the newest output, a fresh float32 (N, C', H', W')."""
        if not self._has_run:
            raise EngineError("Nothing was run; place an input and enqueue first.")
        held = self._staging_out.get_array(self._output_shape, np.float32)
        self._buffers["out"].download(held, self._stream)
        self._stream.synchronize()
        return np.array(held)

    def reset(self) -> None:
        """Forget the frame that was placed last and its output; the next one is to be placed anew."""
        self._input_shape, self._has_run = None, False

    def release(self) -> None:
        """Let go of context and engine, which TensorRT wants freed before what lies under them. Nothing may be queued."""
        self.destroy_context()
        self._engine = None

    def free(self) -> None:
        """Free the buffers, after `release`. Calling it again does nothing."""
        self._uploaded_event = None
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._staging_in.free()
        self._staging_out.free()
        self._stream = None

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        """Tell the context of a new shape, and where its input and output lie. Drops the graph of the old one."""
        self._destroy_graph()
        self._context_shape, self._has_run = None, False
        if not self._context.set_input_shape(self._input_name, shape):
            raise make_engine_error(f"take an input of {'x'.join(map(str, shape))}")
        self._output_shape = tuple(self._context.get_tensor_shape(self._output_name))
        if min(self._output_shape, default=0) < 1:
            raise make_engine_error(f"tell the output's shape for an input of {'x'.join(map(str, shape))}")
        self._ensure_buffer("out", int(np.prod(self._output_shape)) * 4)
        for name, buffer in ((self._input_name, "in"), (self._output_name, "out")):
            if not self._context.set_tensor_address(name, self._buffers[buffer].pointer):
                raise make_engine_error(f"use the memory for {escape_name(name)!r}")
        self._context_shape = shape

    def _capture_graph(self, handle: int) -> None:
        begin_capture(handle)
        try:
            queued = self._context.execute_async_v3(handle)
        except BaseException:
            abort_capture()
            raise
        if not queued:
            abort_capture()
            raise make_engine_error("be captured in a CUDA graph", "Open it without cuda_graph.")
        self._graph = end_capture(handle)

    def _destroy_graph(self) -> None:
        self._is_warm = False
        if self._graph is not None:
            self._stream.synchronize()  # it may be running
            self._graph.close()
            self._graph = None

    def _ensure_buffer(self, name: str, nbytes: int) -> None:
        """A buffer of at least this size. A new one has a new address, which the context and a captured graph do not know."""
        held = self._buffers.get(name)
        if held is not None and held.nbytes >= nbytes:
            return
        if held is not None:
            self._destroy_graph()
            self._context_shape = None
            self._stream.synchronize()
            del self._buffers[name]
            held.free()
        self._buffers[name] = Buffer(self._device, nbytes)


def _find_input_and_output(engine: Any, fixed_addresses: Mapping[str, int]) -> tuple[str, str]:
    """The names of the one input that is not fixed and of the first output, both float32."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    pictures = [name for name in inputs if name not in fixed_addresses]
    missing = [name for name in fixed_addresses if name not in inputs]
    if len(pictures) != 1 or not outputs or missing:
        raise EngineError(
            f"The plan has the inputs {escape_name(', '.join(inputs))} and not those of the bundle; build it again."
        )
    for name in (pictures[0], outputs[0]):
        if engine.get_tensor_dtype(name) != trt.DataType.FLOAT:
            raise EngineError(f"The plan has {escape_name(name)!r} in another type than float32; build it again.")
    return pictures[0], outputs[0]

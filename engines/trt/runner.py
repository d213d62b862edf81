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

from dni_deploy.errors import EngineError, UsageError, shown
from engines.cuda.cuda_graph import Graph, abandon, begin, end
from engines.cuda.device import Device
from engines.cuda.memory import Buffer, Staging
from engines.profile import Profile
from engines.trt import messages
from engines.trt.messages import failed


class Runner:
    """For one engine and one stream, which the caller owns. Every method wants the device held, and calls from one thread at a time.

    fixed    addresses of the inputs beside the picture, by name; what lies there may change, the addresses do not.
    replay   replay frames as CUDA graphs.
    keeps    a captured graph sees weights that were refitted after it; then it is kept over `refitted`.
    """

    def __init__(
        self,
        device: Device,
        engine: Any,
        stream: Any,
        profile: Profile,
        fixed: Mapping[str, int] | None = None,
        *,
        replay: bool = False,
    ) -> None:
        self._device, self._engine, self._stream, self._profile = device, engine, stream, profile
        self._fixed = dict(fixed or {})
        self.replay, self.keeps = replay, False
        self._input, self._output = _picture_and_result(engine, self._fixed)
        self._buffers: dict[str, Buffer] = {}
        self._staging_in, self._staging_out = Staging(device), Staging(device)
        self._uploaded: Any = None
        self._context: Any = None
        self._graph: Graph | None = None
        self._placed: tuple[int, ...] | None = None
        self._shape: tuple[int, ...] | None = None
        self._result: tuple[int, ...] = ()
        self._warm = self._ran = False

    @property
    def ready(self) -> bool:
        """Whether there is an execution context. The first `renew` makes one: of a plan without weights, after the first refit."""
        return self._context is not None

    @property
    def captured(self) -> bool:
        """Whether the next frame of the last one's shape is a replay."""
        return self._graph is not None

    def renew(self) -> None:
        """A new execution context, for a TensorRT whose contexts do not outlive a refit. Nothing may be queued."""
        self.retire()
        messages.begin()
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise failed("make an execution context", "There may be too little GPU memory for this profile.")
        for name, address in self._fixed.items():
            if not self._context.set_tensor_address(name, address):
                raise failed(f"take the input {shown(name)!r} from where it lies")

    def retire(self) -> None:
        """Drop the execution context and what was captured with it."""
        self._forget_graph()
        self._shape = None
        self._context = None

    def refitted(self) -> None:
        """The engine's weights are others now: a captured graph is dropped, unless it is known to see them."""
        if not self.keeps:
            self._forget_graph()

    def place(self, x: NDArray[np.float32]) -> None:
        """Queue the upload of a frame: float32 (N, C, H, W), read before this returns."""
        if not self._profile.holds(x.shape):
            raise UsageError(
                f"The plan takes inputs of {self._profile}; got {'x'.join(map(str, x.shape))}. Build one for larger frames with "
                "dni-deploy build --max, or run in tiles with --tile."
            )
        self._placed = None  # until it is whole
        self._grow("in", x.nbytes)
        if self._uploaded is not None:
            self._uploaded.synchronize()  # the last upload may still read the staging memory
        else:
            self._uploaded = cuda.Event(cuda.event_flags.DISABLE_TIMING)
        held = self._staging_in.array(x.shape, np.float32)
        np.copyto(held, x)
        self._buffers["in"].upload(held, self._stream)
        self._uploaded.record(self._stream)
        self._placed = x.shape

    def enqueue(self) -> None:
        """Queue one run on the frame that was placed last. Raises EngineError."""
        if self._context is None or self._placed is None:
            raise EngineError("No input was placed; place one first.")
        messages.begin()
        if self._placed != self._shape:
            self._set_shape(self._placed)
        handle = self._stream.handle
        if self._graph is None and self.replay and self._warm:
            self._capture(handle)
        if self._graph is not None:
            self._graph.launch(handle)
        elif not self._context.execute_async_v3(handle):
            raise failed("queue the network")
        self._warm = self._ran = True

    def fetch(self) -> NDArray[np.float32]:
        """Wait for what is queued and return the newest output, a fresh float32 (N, C', H', W')."""
        if not self._ran:
            raise EngineError("Nothing was run; place an input and enqueue first.")
        held = self._staging_out.array(self._result, np.float32)
        self._buffers["out"].download(held, self._stream)
        self._stream.synchronize()
        return np.array(held)

    def forget(self) -> None:
        """Forget the frame that was placed last and its output; the next one is to be placed anew."""
        self._placed, self._ran = None, False

    def release(self) -> None:
        """Let go of context and engine, which TensorRT wants freed before what lies under them. Nothing may be queued."""
        self.retire()
        self._engine = None

    def free(self) -> None:
        """Free the buffers, after `release`. Calling it again does nothing."""
        self._uploaded = None
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._staging_in.free()
        self._staging_out.free()
        self._stream = None

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        """Tell the context of a new shape, and where its input and output lie. Drops the graph of the old one."""
        self._forget_graph()
        self._shape, self._ran = None, False
        if not self._context.set_input_shape(self._input, shape):
            raise failed(f"take an input of {'x'.join(map(str, shape))}")
        self._result = tuple(self._context.get_tensor_shape(self._output))
        if min(self._result, default=0) < 1:
            raise failed(f"tell the output's shape for an input of {'x'.join(map(str, shape))}")
        self._grow("out", int(np.prod(self._result)) * 4)
        for name, buffer in ((self._input, "in"), (self._output, "out")):
            if not self._context.set_tensor_address(name, self._buffers[buffer].pointer):
                raise failed(f"use the memory for {shown(name)!r}")
        self._shape = shape

    def _capture(self, handle: int) -> None:
        begin(handle)
        try:
            queued = self._context.execute_async_v3(handle)
        except BaseException:
            abandon()
            raise
        if not queued:
            abandon()
            raise failed("be captured in a CUDA graph", "Open it without cuda_graph.")
        self._graph = end(handle)

    def _forget_graph(self) -> None:
        self._warm = False
        if self._graph is not None:
            self._stream.synchronize()  # it may be running
            self._graph.close()
            self._graph = None

    def _grow(self, name: str, nbytes: int) -> None:
        """A buffer of at least this size. A new one has a new address, which the context and a captured graph do not know."""
        held = self._buffers.get(name)
        if held is not None and held.nbytes >= nbytes:
            return
        if held is not None:
            self._forget_graph()
            self._shape = None
            self._stream.synchronize()
            del self._buffers[name]
            held.free()
        self._buffers[name] = Buffer(self._device, nbytes)


def _picture_and_result(engine: Any, fixed: Mapping[str, int]) -> tuple[str, str]:
    """The names of the one input that is not fixed and of the first output, both float32."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    pictures = [name for name in inputs if name not in fixed]
    missing = [name for name in fixed if name not in inputs]
    if len(pictures) != 1 or not outputs or missing:
        raise EngineError(f"The plan has the inputs {shown(', '.join(inputs))} and not those of the bundle; build it again.")
    for name in (pictures[0], outputs[0]):
        if engine.get_tensor_dtype(name) != trt.DataType.FLOAT:
            raise EngineError(f"The plan has {shown(name)!r} in another type than float32; build it again.")
    return pictures[0], outputs[0]

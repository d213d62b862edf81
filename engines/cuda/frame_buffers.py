"""Frames through a network on the device: pixels are uploaded, converted, run, converted back and downloaded.

Frames cross PCIe as they are stored, one byte for each value of a uint8 frame, in both directions. Uploads and downloads have
streams of their own, shared by the slots of an engine; conversion and network run on the slot's stream. Events order the three,
so the upload of one frame and the download of another overlap the network of a third one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from queue import LifoQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from dni_deploy.imaging import frames
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.signature import Signature
from engines.cuda import backend as cuda
from engines.cuda.device import Device
from engines.cuda.device_frame import CudaArray, DeviceFrame, DeviceFramePool, DeviceInputFrame
from engines.cuda.frame_kernels import FrameKernels
from engines.cuda.memory import Buffer, GrowingBuffer, PageLockedPool, Staging
from engines.interface import FRAMES_IN_FLIGHT

COUNTER_BYTES = 4
"""The uint32 that counts values that are not finite, behind the pixels of a new frame."""


class DeviceNetwork(Protocol):
    """A slot's network, whose input and output are in device memory.

    Attributes:
        stream: The slot's stream, on which all use of the two is queued.
    """

    stream: Any

    def prepare_input(self, shape: tuple[int, ...]) -> int:
        """Makes room for an input, float32 (N, C, H, W), which is then written on the stream.

        Returns:
            Its device address.

        Raises:
            UsageError: The network does not take this shape.
            LimitError: There is no room.
        """

    def enqueue(self) -> None:
        """Queues one run on the input.

        Raises:
            EngineError: The run cannot be queued.
        """

    def get_output(self) -> tuple[tuple[int, ...], int]:
        """Returns the shape and the device address of the output of the newest run, float32 (N, C', H', W')."""


LockNetwork = Callable[[], AbstractContextManager[DeviceNetwork]]
"""Locks a slot while work is queued on it, and gives its network."""


class FrameBuffers:
    """The memory of one frame on its way, and the events that order it.

    Attributes:
        host_input: The frame, page-locked.
        device_input: The frame on the device.
        device_output: The new frame on the device, with its counter of values that are not finite.
        uploaded_event: The frame is on the device.
        computed_event: The new frame is complete on the device.
        downloaded_event: Nothing queued uses the buffers any more.

    Thread safety: one frame at a time; the caller holds the device.
    """

    def __init__(self, device: Device) -> None:
        self.host_input = Staging(device)
        self.device_input, self.device_output = GrowingBuffer(device), GrowingBuffer(device)
        flags = cuda.event_flags.DISABLE_TIMING
        self.uploaded_event, self.computed_event = cuda.Event(flags), cuda.Event(flags)
        # Waited for on the host: without spinning, which would keep a core busy for each frame under way.
        self.downloaded_event = cuda.Event(flags | cuda.event_flags.BLOCKING_SYNC)

    def free(self) -> None:
        """Frees the memory and the events. Calling it again does nothing."""
        for memory in (self.host_input, self.device_input, self.device_output):
            memory.free()
        self.uploaded_event = self.computed_event = self.downloaded_event = None  # type: ignore[assignment]


class FrameRenderer:
    """Renders frames on the slots of one engine: `Engine.render`, with the conversion on the device.

    Thread safety: any thread may render; FRAMES_IN_FLIGHT frames are under way at once and more wait. The caller holds the device.
    """

    def __init__(self, device: Device) -> None:
        """Loads the kernels and creates streams and events; memory is allocated by the first frames.

        Raises:
            UnavailableError: The shipped machine code does not fit, and there is no CUDA compiler.
            EngineError: The kernels do not compile.
        """
        self._kernels = FrameKernels(device)
        self._upload_stream, self._download_stream = device.create_stream(), device.create_stream()
        self._output_pool, self._device_frames = PageLockedPool(), DeviceFramePool(device)
        self._frame_buffers = [FrameBuffers(device) for _ in range(FRAMES_IN_FLIGHT)]
        # Last in, first out: frames that come one by one share one set of buffers, and the others stay empty.
        self._idle: LifoQueue[FrameBuffers] = LifoQueue()
        for buffers in self._frame_buffers:
            self._idle.put(buffers)

    def render(self, frame: AnyFrame | CudaArray, signature: Signature, lock_network: LockNetwork) -> Any:
        """Renders a frame.

        Args:
            frame: uint8, uint16 or float32 (H, W, 3), RGB, on the host or on this device; read before this returns.
            signature: Of the network.
            lock_network: Locks the slot; the host waits for nothing meanwhile.

        Returns:
            (scale * H, scale * W, 3) of the same dtype: for a frame on the host a fresh NDArray, page-locked as long as the engine
            is open; for one on the device a DeviceFrame.

        Raises:
            UsageError: `frame` is none, is on another device, or has a size that the network does not take.
            MismatchError: The network does not turn frames into frames.
            LimitError: There is no room on the GPU.
            EngineError: The network failed, or its output has another shape or is not finite.
        """
        if isinstance(frame, np.ndarray):
            return self._render_on_host(frame, signature, lock_network)
        if not hasattr(frame, "__cuda_array_interface__"):
            frames.check_frame(frame)
        return self._render_on_device(frame, signature, lock_network)

    def close(self) -> None:
        """Frees the memory, which ends the DeviceFrames that were returned; arrays on the host stay valid.

        No frame may be under way. Calling it again does nothing.
        """
        self._upload_stream = self._download_stream = None  # type: ignore[assignment]
        with ExitStack() as steps:  # each is done, even where a GPU that has failed fails again
            for step in (self._output_pool.close, self._device_frames.close, *(one.free for one in self._frame_buffers)):
                steps.callback(step)

    @contextmanager
    def _use_buffers(self) -> Iterator[FrameBuffers]:
        """Waits for idle buffers, and at the end for all that is queued with them."""
        buffers = self._idle.get()
        try:
            yield buffers
        finally:
            try:
                buffers.downloaded_event.synchronize()
            finally:
                self._idle.put(buffers)

    def _render_on_host(self, frame: AnyFrame, signature: Signature, lock_network: LockNetwork) -> NDArray[Any]:
        """Renders a frame that is on the host."""
        frames.check_frame(frame)
        frames.check_signature(signature)
        shape, nbytes, counter_offset = _output_layout(frame.shape, frame.dtype, signature)
        with self._use_buffers() as buffers:
            staged = buffers.host_input.get_array(frame.shape, frame.dtype)
            np.copyto(staged, frame)
            source = buffers.device_input.get_buffer(frame.nbytes)
            target = buffers.device_output.get_buffer(counter_offset + COUNTER_BYTES)
            received = self._output_pool.take(counter_offset + COUNTER_BYTES)
            pointers = (source.pointer, target.pointer, target.pointer + counter_offset)
            job = _FrameJob(frame.shape, frame.dtype, signature, *pointers, partial(self._upload, buffers, source, staged))
            self._compute(buffers, job, lock_network)
            self._download(buffers, target, received, 0)
        _check_finite(received[counter_offset:], shape)
        return received[:nbytes].view(frame.dtype).reshape(shape)

    def _render_on_device(self, array: CudaArray, signature: Signature, lock_network: LockNetwork) -> DeviceFrame:
        """Renders a frame where it is; the host gets the counter of values that are not finite alone."""
        frames.check_signature(signature)
        frame = DeviceInputFrame.from_array(array)
        shape, _, counter_offset = _output_layout(frame.shape, frame.dtype, signature)
        with self._use_buffers() as buffers:
            rendered, target = self._device_frames.take(shape, frame.dtype, counter_offset + COUNTER_BYTES)
            counter = self._output_pool.take(COUNTER_BYTES)
            pointers = (frame.address, target.pointer, target.pointer + counter_offset)
            job = _FrameJob(frame.shape, frame.dtype, signature, *pointers, frame.enqueue_wait)
            self._compute(buffers, job, lock_network)
            self._download(buffers, target, counter, counter_offset)
        _check_finite(counter, shape)
        return rendered

    def _upload(self, buffers: FrameBuffers, source: Buffer, staged: NDArray[Any], stream: Any) -> None:
        """Queues the upload of a frame, and makes the slot's stream wait for it."""
        source.upload(staged, self._upload_stream)
        buffers.uploaded_event.record(self._upload_stream)
        stream.wait_for_event(buffers.uploaded_event)

    def _compute(self, buffers: FrameBuffers, job: _FrameJob, lock_network: LockNetwork) -> None:
        """Queues all of a frame that is ordered by the slot's stream."""
        with lock_network() as network:
            network_input = network.prepare_input(job.input_shape)
            job.enqueue_source(network.stream)
            try:
                self._enqueue_network(job, network, network_input)
            except BaseException:
                buffers.downloaded_event.record(network.stream)  # what was queued still uses the buffers
                raise
            buffers.computed_event.record(network.stream)

    def _enqueue_network(self, job: _FrameJob, network: DeviceNetwork, network_input: int) -> None:
        """Queues conversion, network and conversion back."""
        size, stream = (job.shape[0], job.shape[1]), network.stream
        self._kernels.enqueue_frame_to_input(job.source, size, job.dtype, job.signature, network_input, stream)
        network.enqueue()
        output_shape, network_output = network.get_output()
        count, channels, height, width = job.input_shape
        expected = (count, channels, job.signature.scale * height, job.signature.scale * width)
        if output_shape != expected:
            raise EngineError(
                f"The network gave an array of shape {output_shape} where {expected} was expected for this frame."
            )
        cuda.memset_d32_async(job.not_finite, 0, 1, stream)
        self._kernels.enqueue_output_to_frame(
            network_output, job.source, size, job.dtype, job.signature, job.target, job.not_finite, stream
        )

    def _download(self, buffers: FrameBuffers, target: Buffer, received: NDArray[np.uint8], offset: int) -> None:
        """Queues the download of what was computed."""
        self._download_stream.wait_for_event(buffers.computed_event)
        target.download(received, self._download_stream, offset)
        buffers.downloaded_event.record(self._download_stream)


@dataclass(frozen=True)
class _FrameJob:
    """What the slot's stream has to know of a frame.

    Attributes:
        shape: (H, W, 3).
        dtype: Its dtype.
        signature: Of the network.
        source: Device address of the frame.
        target: Device address of the new frame.
        not_finite: Device address of the counter of values that are not finite.
        enqueue_source: Makes a stream wait until the frame is at `source`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    signature: Signature
    source: int
    target: int
    not_finite: int
    enqueue_source: Callable[[Any], None]

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The shape of the network's input: a network of one channel takes the three colors as a batch of three."""
        size = frames.padded_size(self.shape[0], self.shape[1], self.signature)
        return (self.signature.frame_batch, self.signature.input_channels, *size)


def _output_layout(shape: tuple[int, ...], dtype: np.dtype[Any], signature: Signature) -> tuple[tuple[int, int, int], int, int]:
    """Returns a new frame's shape, its bytes, and where its counter is behind them."""
    output_shape = (signature.scale * shape[0], signature.scale * shape[1], 3)
    nbytes = math.prod(output_shape) * dtype.itemsize
    return output_shape, nbytes, -(-nbytes // COUNTER_BYTES) * COUNTER_BYTES


def _check_finite(counter: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    """Raises EngineError where values of a frame of this shape are NaN or infinite."""
    not_finite = int(counter.view(np.uint32)[0])
    if not_finite:
        raise frames.not_finite_error(not_finite, math.prod(shape))

"""Frames through a network on the device: pixels are uploaded, converted, run, converted back and downloaded.

Frames cross PCIe as they are stored, one byte for each value of a uint8 frame, in both directions. Uploads and downloads have
streams of their own, shared by the slots of an engine; conversion and network run on the slot's stream. Events order the three,
so the upload of one frame and the download of another overlap the network of a third one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from queue import LifoQueue
from typing import Any, Protocol

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from dni_deploy.imaging import frames
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.signature import Signature
from engines.cuda.device import Device
from engines.cuda.frame_kernels import FrameKernels
from engines.cuda.memory import Buffer, GrowingBuffer, PageLockedPool, Staging

FRAMES_IN_FLIGHT = 3
"""One that is uploaded, one in the network, one that is downloaded; as many as a session has under way."""

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
        self.uploaded_event = self.computed_event = self.downloaded_event = None


class FrameRenderer:
    """Renders frames on the slots of one engine: `Engine.render`, with the conversion on the device.

    Thread safety: any thread may render; FRAMES_IN_FLIGHT frames are under way at once and more wait. The caller holds the device.
    """

    def __init__(self, device: Device) -> None:
        """Loads the kernels and creates streams and events; memory is allocated by the first frames.

        Raises:
            UnavailableError: There is no CUDA compiler.
            EngineError: The kernels do not compile.
        """
        self._kernels = FrameKernels(device)
        self._upload_stream, self._download_stream = device.create_stream(), device.create_stream()
        self._output_pool = PageLockedPool()
        self._frame_buffers = [FrameBuffers(device) for _ in range(FRAMES_IN_FLIGHT)]
        # Last in, first out: frames that come one by one share one set of buffers, and the others stay empty.
        self._idle: LifoQueue[FrameBuffers] = LifoQueue()
        for buffers in self._frame_buffers:
            self._idle.put(buffers)

    def render(self, frame: AnyFrame, signature: Signature, lock_network: LockNetwork) -> NDArray[Any]:
        """Renders a frame.

        Args:
            frame: uint8, uint16 or float32 (H, W, 3), RGB; read before this returns.
            signature: Of the network.
            lock_network: Locks the slot; the host waits for nothing meanwhile.

        Returns:
            A fresh array of the same dtype, (scale * H, scale * W, 3), page-locked as long as the engine is open.

        Raises:
            UsageError: `frame` is none, or the network does not take its size.
            MismatchError: The network does not turn frames into frames.
            LimitError: There is no room on the GPU.
            EngineError: The network failed, or its output has another shape or is not finite.
        """
        frames.check_frame(frame)
        frames.check_signature(signature)
        shape = (signature.scale * frame.shape[0], signature.scale * frame.shape[1], 3)
        nbytes = int(np.prod(shape, dtype=np.int64)) * frame.dtype.itemsize
        counter_offset = -(-nbytes // COUNTER_BYTES) * COUNTER_BYTES
        with self._use_buffers() as buffers:
            staged = buffers.host_input.get_array(frame.shape, frame.dtype)
            np.copyto(staged, frame)
            source = buffers.device_input.get_buffer(frame.nbytes)
            target = buffers.device_output.get_buffer(counter_offset + COUNTER_BYTES)
            received = self._output_pool.take(counter_offset + COUNTER_BYTES)
            with lock_network() as network:
                network_input = network.prepare_input(_input_shape(frame, signature))
                source.upload(staged, self._upload_stream)
                buffers.uploaded_event.record(self._upload_stream)
                network.stream.wait_for_event(buffers.uploaded_event)
                try:
                    self._enqueue_network(network, network_input, source, frame, signature, target, counter_offset)
                except BaseException:
                    buffers.downloaded_event.record(network.stream)  # what was queued still uses the buffers
                    raise
                buffers.computed_event.record(network.stream)
            self._download_stream.wait_for_event(buffers.computed_event)
            target.download(received, self._download_stream)
            buffers.downloaded_event.record(self._download_stream)
        pixels = received[:nbytes].view(frame.dtype).reshape(shape)
        not_finite = int(received[counter_offset:].view(np.uint32)[0])
        if not_finite:
            raise frames.not_finite_error(not_finite, pixels.size)
        return pixels

    def close(self) -> None:
        """Frees the memory; no frame may be under way. Frames that were returned stay valid. Calling it again does nothing."""
        for buffers in self._frame_buffers:
            buffers.free()
        self._output_pool.close()
        self._upload_stream = self._download_stream = None

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

    def _enqueue_network(
        self,
        network: DeviceNetwork,
        network_input: int,
        source: Buffer,
        frame: AnyFrame,
        signature: Signature,
        target: Buffer,
        counter_offset: int,
    ) -> None:
        """Queues conversion, network and conversion back on the slot's stream."""
        size, dtype, stream = (frame.shape[0], frame.shape[1]), frame.dtype, network.stream
        self._kernels.enqueue_frame_to_input(source.pointer, size, dtype, signature, network_input, stream)
        network.enqueue()
        output_shape, network_output = network.get_output()
        frames.check_output(np.broadcast_to(np.float32(0), output_shape), frame, signature)  # of which the shape alone counts
        not_finite = target.pointer + counter_offset
        cuda.memset_d32_async(not_finite, 0, 1, stream)
        self._kernels.enqueue_output_to_frame(
            network_output, source.pointer, size, dtype, signature, target.pointer, not_finite, stream
        )


def _input_shape(frame: AnyFrame, signature: Signature) -> tuple[int, ...]:
    """Returns the shape of the network's input: a network of one channel takes the three colors as a batch of three."""
    size = frames.padded_size(frame.shape[0], frame.shape[1], signature.multiple)
    return (3, 1, *size) if signature.input_channels == 1 else (1, 3, *size)

"""Frames in device memory, by CUDA's array interface: those of others that are read, and those that are rendered.

Source: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, versions 2 and 3.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dni_deploy.errors import EngineError, UsageError, escape_name
from dni_deploy.imaging.frames import WHITE_LEVELS
from engines.cuda import driver
from engines.cuda.device import Device
from engines.cuda.memory import Buffer

POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9
"""CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL."""


class CudaArray(Protocol):
    """An array in device memory, such as a tensor of PyTorch or an array of CuPy or Numba."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]:
        """Where the array is: shape, dtype, address and stream."""


@dataclass(frozen=True)
class DeviceInputFrame:
    """A frame of somebody else in device memory.

    Attributes:
        address: Its device address.
        shape: (H, W, 3).
        dtype: One of WHITE_LEVELS.
        stream: The CUstream whose work the frame is complete after, or None where it is complete.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None

    @classmethod
    def from_array(cls, array: CudaArray) -> DeviceInputFrame:
        """Reads the interface of an array; the caller holds the device, on which it must be.

        Raises:
            UsageError: The array is no frame, is not contiguous, or is not on this device.
        """
        interface = array.__cuda_array_interface__
        version = interface.get("version")
        if version not in (2, 3):
            raise UsageError(f"A frame on the GPU needs CUDA's array interface in version 2 or 3; got {escape_name(version)}.")
        dtype, shape = np.dtype(interface.get("typestr")), tuple(interface.get("shape", ()))
        if dtype not in WHITE_LEVELS or len(shape) != 3 or shape[2] != 3 or 0 in shape or interface.get("mask") is not None:
            raise UsageError(
                f"A frame on the GPU is a uint8, uint16 or float32 array (height, width, 3), RGB; got {dtype} {shape}."
            )
        strides = interface.get("strides")
        contiguous = (shape[1] * 3 * dtype.itemsize, 3 * dtype.itemsize, dtype.itemsize)
        if strides is not None and tuple(strides) != contiguous:
            raise UsageError(f"A frame on the GPU is contiguous, of strides {contiguous} here; got {tuple(strides)}.")
        address, stream = interface.get("data", (0,))[0], interface.get("stream")
        if stream == 0:
            raise UsageError("CUDA's array interface does not allow 0 as the stream of an array; the default stream is 1.")
        if address % dtype.itemsize or _device_of(address) != _current_device():
            raise UsageError("The frame is not in the memory of the GPU on which the engine is open.")
        return cls(address, shape, dtype, stream)

    def enqueue_wait(self, stream: Any) -> None:
        """Makes a stream of ours wait until the frame is complete."""
        if self.stream is None:
            return
        event = ctypes.c_void_p()
        driver.call_driver("cuEventCreate", ctypes.byref(event), ctypes.c_uint(2))  # CU_EVENT_DISABLE_TIMING
        try:
            driver.call_driver("cuEventRecord", event, ctypes.c_void_p(self.stream))
            driver.call_driver("cuStreamWaitEvent", ctypes.c_void_p(stream.handle), event, ctypes.c_uint(0))
        finally:
            driver.call_driver("cuEventDestroy_v2", event)  # when it has happened: the wait stays


class DeviceFrame:
    """A rendered frame in device memory, complete when it is returned. Any library that knows CUDA's array interface reads it.

    Its memory goes back to the engine when the object is collected, which must not be before the work that reads it has run;
    libraries that wrap it without a copy keep the object. It ends with the engine.

    Attributes:
        shape: (scale * H, scale * W, 3).
        dtype: That of the source.

    Thread safety: any thread.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], buffer: Buffer, returned: weakref.ref[deque[Buffer]]
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._buffer, self._returned = buffer, returned

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The frame by CUDA's array interface, version 3, which needs no synchronization.

        Raises:
            EngineError: The engine was closed.
        """
        if self._buffer.pointer == 0:
            raise EngineError("The engine of this frame was closed, and its memory freed.")
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self._buffer.pointer, False),
            "strides": None, "stream": None, "version": 3,
        }  # fmt: skip

    def __del__(self) -> None:
        returned = self._returned()
        if returned is not None:
            returned.append(self._buffer)


class DeviceFramePool:
    """The memory of the rendered frames of an engine; that of frames which were collected is used again.

    Thread safety: any thread; the caller holds the device.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._buffers: list[Buffer] = []
        # Appended to by finalizers, which run on any thread, also on one that holds the lock: so they take none.
        self._returned: deque[Buffer] = deque()

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> tuple[DeviceFrame, Buffer]:
        """Takes a frame, whose content is undefined.

        Args:
            shape: Its shape.
            dtype: Its dtype.
            nbytes: Size of its buffer, at least that of the frame.

        Returns:
            The frame, and its buffer, valid as long as the frame.

        Raises:
            LimitError: There is no room.
        """
        with self._lock:
            buffer = None
            for _ in range(len(self._returned)):
                candidate = self._returned.popleft()
                if buffer is None and candidate.nbytes == nbytes:
                    buffer = candidate
                elif buffer is None:
                    self._buffers.remove(candidate)
                    candidate.free()
                else:
                    self._returned.append(candidate)
            if buffer is None:
                buffer = Buffer(self._device, nbytes)
                self._buffers.append(buffer)
            return DeviceFrame(shape, dtype, buffer, weakref.ref(self._returned)), buffer

    def close(self) -> None:
        """Frees all memory, that of frames which callers hold, too; nothing queued may still use it. May be called again."""
        with self._lock:
            buffers, self._buffers, self._returned = self._buffers, [], deque()
            for buffer in buffers:
                buffer.free()


def _device_of(address: int) -> int | None:
    """Returns the number of the GPU on which an address is; None where it is on none."""
    ordinal = ctypes.c_int(-1)
    try:
        driver.call_driver(
            "cuPointerGetAttribute",
            ctypes.byref(ordinal),
            ctypes.c_int(POINTER_ATTRIBUTE_DEVICE_ORDINAL),
            ctypes.c_void_p(address),
        )
    except EngineError:
        return None
    return ordinal.value


def _current_device() -> int:
    ordinal = ctypes.c_int()
    driver.call_driver("cuCtxGetDevice", ctypes.byref(ordinal))
    return ordinal.value

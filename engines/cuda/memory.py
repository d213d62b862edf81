"""Memory on the device, and page-locked memory on the host, both freed explicitly.

A finalizer runs on any thread at any time: the context is not current there, and pycuda would leak the memory. The caller holds
the device around every call.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dni_deploy.errors import EngineError, LimitError
from engines.cuda import backend as cuda
from engines.cuda import driver
from engines.cuda.device import Device

log = logging.getLogger(__name__)

PAGE_BYTES = 4096
"""Memory is registered in whole pages, so that no two registrations share one, which the driver refuses."""

MAX_POOLED_ARRAYS = 16
"""More arrays of one pool are not page-locked: a caller who keeps all frames of a video must not lock all memory."""


class Buffer:
    """Memory on the device, aligned to at least 256 bytes.

    Attributes:
        nbytes: Its size.
        pointer: Its device address; 0 after `free`.

    Thread safety: copies are ordered by the stream that they are queued on.
    """

    def __init__(self, device: Device, nbytes: int) -> None:
        """Allocates the memory, which is not cleared.

        Raises:
            LimitError: There is no room.
        """
        try:
            self._memory: cuda.DeviceAllocation | None = cuda.mem_alloc(max(int(nbytes), 1))  # the driver refuses 0
        except cuda.MemoryError as error:
            raise LimitError(
                f"The GPU {device.name} has {device.query_free_bytes() >> 20} MB free where "
                f"{int(nbytes) / (1 << 20):.1f} MB are needed."
            ) from error
        self.nbytes = int(nbytes)
        self.pointer = int(self._memory)
        self._setup_stream = device.setup_stream

    def upload(self, array: NDArray[Any], stream: cuda.Stream | None = None, offset: int = 0) -> None:
        """Copies a contiguous array to the device.

        Args:
            array: Any dtype. Where it is page-locked and a stream is passed, it must not change until the copy has run; any
                other array has been read on return.
            stream: The stream to queue the copy on; None to wait for it, so that every stream sees it on return.
            offset: First byte in the buffer.

        Raises:
            EngineError: The buffer was freed, or is too small.
        """
        self._check_range(array.nbytes, offset)
        if array.nbytes == 0:
            return
        # Not memcpy_htod: from pageable memory it may return while the data is still on its way (CUDA's "API synchronization
        # behavior"), and streams like ours do not wait for the default one.
        cuda.memcpy_htod_async(self.pointer + offset, array, stream or self._setup_stream)
        if stream is None and self._setup_stream is not None:
            self._setup_stream.synchronize()

    def download(self, out: NDArray[Any], stream: cuda.Stream | None = None, offset: int = 0) -> None:
        """Copies from the device into a contiguous array.

        Args:
            out: Any dtype; with a stream it is filled when the copy has run.
            stream: The stream to queue the copy on; None to wait for it. Work of other streams is not waited for.
            offset: First byte in the buffer.

        Raises:
            EngineError: The buffer was freed, or is too small.
        """
        self._check_range(out.nbytes, offset)
        if out.nbytes == 0:
            return
        cuda.memcpy_dtoh_async(out, self.pointer + offset, stream or self._setup_stream)
        if stream is None and self._setup_stream is not None:
            self._setup_stream.synchronize()

    def zero(self, stream: cuda.Stream | None = None) -> None:
        """Clears the buffer; without a stream it is cleared on return.

        Raises:
            EngineError: The buffer was freed.
        """
        self._check_range(0, 0)
        if self.nbytes:
            cuda.memset_d8_async(self.pointer, 0, self.nbytes, stream or self._setup_stream)
            if stream is None and self._setup_stream is not None:
                self._setup_stream.synchronize()

    def free(self) -> None:
        """Frees the memory. Nothing queued may still use it. Calling it again does nothing."""
        memory, self._memory, self.pointer = self._memory, None, 0
        if memory is not None:
            memory.free()

    def _check_range(self, nbytes: int, offset: int) -> None:
        if self._memory is None:
            raise EngineError("A buffer of the GPU was used after it was freed.")
        if offset < 0 or offset + nbytes > self.nbytes:
            raise EngineError(f"{nbytes} bytes do not fit a buffer of {self.nbytes} bytes at {offset}.")


class Staging:
    """A page-locked host array that grows as needed: the GPU copies from and to it directly.

    Thread safety: one thread at a time.
    """

    def __init__(self, device: Device) -> None:
        self._device = device  # whose context holds the memory
        self._memory: NDArray[np.uint8] | None = None

    def get_array(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Returns a contiguous array, whose content is what the last user left.

        Args:
            shape: Its shape.
            dtype: Its dtype.

        Returns:
            A view of this object's memory, valid until the next call that needs more room; nothing queued may still use it
            then.

        Raises:
            LimitError: There is no room.
        """
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if self._memory is None or self._memory.nbytes < nbytes:
            self.free()
            try:
                self._memory = cuda.pagelocked_empty(max(nbytes, 1), np.uint8)
            except cuda.Error as error:
                raise LimitError(f"{nbytes / (1 << 20):.1f} MB of page-locked memory cannot be had: {error}.") from error
        assert self._memory is not None
        return self._memory[:nbytes].view(kind).reshape(shape)

    def free(self) -> None:
        """Frees the memory, and with it the arrays that `get_array` returned. Calling it again does nothing."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.base.free()  # type: ignore[union-attr]  # the allocation


class GrowingBuffer:
    """Device memory that grows as needed.

    Thread safety: one thread at a time; the caller holds the device.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffer: Buffer | None = None

    @property
    def nbytes(self) -> int:
        """The size of the buffer; 0 before the first."""
        return 0 if self._buffer is None else self._buffer.nbytes

    def get_buffer(self, nbytes: int) -> Buffer:
        """Returns a buffer of at least this size, whose content is what the last user left.

        Returns:
            This object's buffer, valid until the next call that needs more room; nothing queued may still use it then.

        Raises:
            LimitError: There is no room.
        """
        if self._buffer is None or self._buffer.nbytes < nbytes:
            self.free()
            self._buffer = Buffer(self._device, nbytes)
        return self._buffer

    def free(self) -> None:
        """Frees the memory. Calling it again does nothing."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer.free()


class PageLockedPool:
    """Page-locked arrays on the host that callers may keep for as long as they like.

    The memory of an array comes back to the pool when the array and all its views are collected. It is ordinary memory that is
    registered with the driver, so it stays valid for arrays that outlive the pool.

    Thread safety: any thread may take an array and drop it; the caller holds the device around `take` and `close`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registered: set[int] = set()
        self._free: list[NDArray[np.uint8]] = []
        # Appended to by finalizers, which run on any thread, also on one that holds the lock: so they take none.
        self._returned: deque[NDArray[np.uint8]] = deque()

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """Takes an array.

        Args:
            nbytes: Its size, at least 1.

        Returns:
            uint8 (nbytes,), aligned to a page; its content is undefined. It is not page-locked where MAX_POOLED_ARRAYS are in
            use or the driver refuses: copies are right then, too, and slower.
        """
        size = -(-nbytes // PAGE_BYTES) * PAGE_BYTES
        with self._lock:
            while self._returned:
                self._free.append(self._returned.popleft())
            for index, memory in enumerate(self._free):
                if memory.nbytes == size:
                    return self._lend(self._free.pop(index))[:nbytes]
            if self._free and len(self._registered) >= MAX_POOLED_ARRAYS:
                self._unregister(self._free.pop(0).ctypes.data)
            memory = np.empty(size + PAGE_BYTES, np.uint8)
            memory = memory[-memory.ctypes.data % PAGE_BYTES :][:size]
            if len(self._registered) >= MAX_POOLED_ARRAYS:
                return memory[:nbytes]
            try:
                driver.call_driver(
                    "cuMemHostRegister_v2", ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(size), ctypes.c_uint(0)
                )
            except EngineError as error:
                log.debug("%d bytes are not page-locked: %s", size, error)
                return memory[:nbytes]
            self._registered.add(memory.ctypes.data)
            return self._lend(memory)[:nbytes]

    def close(self) -> None:
        """Unlocks all memory; nothing queued may still use it. Arrays that callers hold stay valid. May be called again."""
        with self._lock:
            while self._registered:
                self._unregister(next(iter(self._registered)))
            self._free, self._returned = [], deque()

    def _lend(self, memory: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(_Loan(memory, weakref.ref(self._returned)))

    def _unregister(self, address: int) -> None:
        self._registered.remove(address)
        driver.call_driver("cuMemHostUnregister", ctypes.c_void_p(address))


class _Loan:
    """Owns the memory of an array, and gives it back to the pool, if that still exists, when the array is collected."""

    def __init__(self, memory: NDArray[np.uint8], returned: weakref.ref[deque[NDArray[np.uint8]]]) -> None:
        self._memory, self._returned = memory, returned
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        returned = self._returned()
        if returned is not None:
            returned.append(self._memory)

"""Buffer: memory on the device, and page-locked memory on the host, both freed by hand.

Explicitly, because a finalizer runs on any thread at any time: there the context is not current, and pycuda would leak the memory.
All methods are called within `with device:`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import DTypeLike, NDArray

from dni_deploy.errors import EngineError, LimitError
from engines.cuda.device import Device


class Buffer:
    """`nbytes` bytes on the device, not cleared, beginning on at least 256 bytes. `pointer` is 0 after `free`."""

    def __init__(self, device: Device, nbytes: int) -> None:
        try:
            self._memory = cuda.mem_alloc(max(int(nbytes), 1))  # the driver refuses 0
        except cuda.MemoryError as error:
            raise LimitError(
                f"The GPU {device.name} has {device.query_free_bytes() >> 20} MB free where {int(nbytes) / (1 << 20):.1f} MB are needed."
            ) from error
        self.nbytes = int(nbytes)
        self.pointer = int(self._memory)
        self._setup_stream = device.setup_stream

    def upload(self, array: NDArray[Any], stream: cuda.Stream | None = None, offset: int = 0) -> None:
        """Copy a contiguous array to `offset` bytes from the start. Without a stream it is there on return, for every stream.

        With a stream the copy is queued: a page-locked array must stay as it is until then; any other was read on return.
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
        """Copy into a contiguous array. Without a stream it is there on return; what other streams still do is not waited for."""
        self._check_range(out.nbytes, offset)
        if out.nbytes == 0:
            return
        cuda.memcpy_dtoh_async(out, self.pointer + offset, stream or self._setup_stream)
        if stream is None and self._setup_stream is not None:
            self._setup_stream.synchronize()

    def zero(self, stream: cuda.Stream | None = None) -> None:
        """Clear it; without a stream it is cleared on return."""
        self._check_range(0, 0)
        if self.nbytes:
            cuda.memset_d8_async(self.pointer, 0, self.nbytes, stream or self._setup_stream)
            if stream is None and self._setup_stream is not None:
                self._setup_stream.synchronize()

    def free(self) -> None:
        """Nothing queued may still use it. Calling it again does nothing."""
        memory, self._memory, self.pointer = self._memory, None, 0
        if memory is not None:
            memory.free()

    def _check_range(self, nbytes: int, offset: int) -> None:
        if self._memory is None:
            raise EngineError("A buffer of the GPU was used after it was freed.")
        if offset < 0 or offset + nbytes > self.nbytes:
            raise EngineError(f"{nbytes} bytes do not fit a buffer of {self.nbytes} bytes at {offset}.")


class Staging:
    """One page-locked host array that grows as needed: the GPU copies from and to it without a detour."""

    def __init__(self, device: Device) -> None:
        self._device = device  # whose context holds the memory
        self._memory: NDArray[np.uint8] | None = None

    def get_array(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """A contiguous array of this shape, valid until the next call that needs more room: nothing queued may still use it then.

        Its content is what the last user left. Raises LimitError.
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
        """Arrays that were given are gone with it. Calling it again does nothing."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.base.free()  # type: ignore[union-attr]  # pycuda's allocation

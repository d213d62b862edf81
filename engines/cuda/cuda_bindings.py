"""The part of pycuda.driver that this project uses, made of cuda-bindings: the same names, arguments and errors.

cuda-bindings has wheels, and needs neither a compiler nor the CUDA toolkit. Its functions return a CUresult, and then what the
driver's function writes.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from cuda.bindings import driver as cu
from numpy.typing import DTypeLike, NDArray

ONE_POINTER = ctypes.c_void_p * 1


class Error(Exception):
    """The driver refused a call, or reports that earlier work failed."""


class MemoryError(Error):
    """There is no room on the device."""


class event_flags:
    """Flags of an Event, as pycuda calls them."""

    BLOCKING_SYNC = 1
    DISABLE_TIMING = 2


class function_attribute:
    """Attributes of a Function, as pycuda calls them."""

    NUM_REGS = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_NUM_REGS


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the driver.

    Returns:
        What the function writes: nothing, one value or a tuple.

    Raises:
        MemoryError, Error: It refuses.
    """
    code, *values = function(*arguments)
    if code:
        kind = MemoryError if code == cu.CUresult.CUDA_ERROR_OUT_OF_MEMORY else Error
        raise kind(f"{function.__name__} failed: {getattr(code, 'name', code)}")
    return values[0] if len(values) == 1 else tuple(values)


def _destroy(function: Callable[..., Any], handle: Any) -> None:
    """Calls a destructor of the driver, which is on its way out itself when the interpreter ends."""
    with suppress(Exception):
        function(handle)


def init() -> None:
    """Starts the driver."""
    _call(cu.cuInit, 0)


class DriverDevice:
    """A GPU, by the driver's number."""

    def __init__(self, index: int) -> None:
        self._handle = _call(cu.cuDeviceGet, index)

    @staticmethod
    def count() -> int:
        """Returns the number of GPUs."""
        return int(_call(cu.cuDeviceGetCount))

    def name(self) -> str:
        """Returns the driver's name for the GPU."""
        name: bytes = _call(cu.cuDeviceGetName, 256, self._handle)
        return name.partition(b"\0")[0].decode(errors="replace")

    def compute_capability(self) -> tuple[int, int]:
        """Returns its compute capability, (major, minor)."""
        kinds = cu.CUdevice_attribute
        major = _call(cu.cuDeviceGetAttribute, kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, self._handle)
        minor = _call(cu.cuDeviceGetAttribute, kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, self._handle)
        return int(major), int(minor)

    def retain_primary_context(self) -> Context:
        """Retains the primary context; nothing here ever releases it."""
        return Context(_call(cu.cuDevicePrimaryCtxRetain, self._handle))


class Context:
    """A context, which each thread makes current for itself."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def push(self) -> None:
        """Makes it this thread's current one."""
        _call(cu.cuCtxPushCurrent, self._handle)

    @staticmethod
    def pop() -> None:
        """Makes that current which was before the last push."""
        _call(cu.cuCtxPopCurrent)


class Stream:
    """A stream, which is destroyed with the object; work that is queued still runs."""

    def __init__(self, flags: int = 0) -> None:
        self._stream = _call(cu.cuStreamCreate, flags)

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            _destroy(cu.cuStreamDestroy, self._stream)

    @property
    def handle(self) -> int:
        """The CUstream."""
        return int(self._stream)

    def synchronize(self) -> None:
        """Waits for all that is queued."""
        _call(cu.cuStreamSynchronize, self._stream)

    def wait_for_event(self, event: Event) -> None:
        """Makes later work wait for the latest record of an event."""
        _call(cu.cuStreamWaitEvent, self._stream, event._event, 0)


class Event:
    """An event, which is destroyed with the object; waits that are queued stay."""

    def __init__(self, flags: int = 0) -> None:
        self._event = _call(cu.cuEventCreate, flags)

    def __del__(self) -> None:
        if hasattr(self, "_event"):
            _destroy(cu.cuEventDestroy, self._event)

    def record(self, stream: Stream | None = None) -> Event:
        """Records it on a stream, None for the default one."""
        _call(cu.cuEventRecord, self._event, _handle_of(stream))
        return self

    def synchronize(self) -> Event:
        """Waits for the latest record, if there is one."""
        _call(cu.cuEventSynchronize, self._event)
        return self


def _handle_of(stream: Stream | None) -> Any:
    return 0 if stream is None else stream._stream


Device = DriverDevice
"""pycuda's name for it."""


class DeviceAllocation:
    """Memory on the device; `int` gives its address."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer

    def __int__(self) -> int:
        return int(self._pointer)

    def free(self) -> None:
        """Frees the memory."""
        _call(cu.cuMemFree, self._pointer)


def mem_alloc(size: int) -> DeviceAllocation:
    """Allocates memory on the device, at least one byte."""
    return DeviceAllocation(_call(cu.cuMemAlloc, size))


def mem_get_info() -> tuple[int, int]:
    """Returns the free and the whole memory of the device, in bytes."""
    free, total = _call(cu.cuMemGetInfo)
    return int(free), int(total)


def memcpy_htod_async(target: int, source: NDArray[Any], stream: Stream | None = None) -> None:
    """Queues a copy of a contiguous array to a device address."""
    _call(cu.cuMemcpyHtoDAsync, target, source, source.nbytes, _handle_of(stream))


def memcpy_dtoh_async(target: NDArray[Any], source: int, stream: Stream | None = None) -> None:
    """Queues a copy from a device address into a contiguous array."""
    _call(cu.cuMemcpyDtoHAsync, target, source, target.nbytes, _handle_of(stream))


def memcpy_dtod_async(target: int, source: int, size: int, stream: Stream | None = None) -> None:
    """Queues a copy of bytes on the device."""
    _call(cu.cuMemcpyDtoDAsync, target, source, size, _handle_of(stream))


def memset_d8_async(target: int, value: int, count: int, stream: Stream | None = None) -> None:
    """Queues that bytes are set."""
    _call(cu.cuMemsetD8Async, target, value, count, _handle_of(stream))


def memset_d32_async(target: int, value: int, count: int, stream: Stream | None = None) -> None:
    """Queues that words of 4 bytes are set."""
    _call(cu.cuMemsetD32Async, target, value, count, _handle_of(stream))


class PagelockedHostAllocation:
    """Page-locked memory on the host, the base of the array that `pagelocked_empty` returns."""

    def __init__(self, nbytes: int) -> None:
        self._address = int(_call(cu.cuMemHostAlloc, nbytes, 0))
        self.__array_interface__ = {"shape": (nbytes,), "typestr": "|u1", "data": (self._address, False), "version": 3}

    def free(self) -> None:
        """Frees the memory, and with it the array."""
        _call(cu.cuMemFreeHost, self._address)


def pagelocked_empty(shape: int, dtype: DTypeLike) -> NDArray[Any]:
    """Allocates a page-locked array; `array.base.free()` frees it."""
    if np.dtype(dtype) != np.uint8:
        raise TypeError(f"page-locked arrays are uint8, not {np.dtype(dtype)}")
    return np.asarray(PagelockedHostAllocation(shape))


def module_from_buffer(code: bytes) -> Module:
    """Loads a cubin, or PTX that ends with a zero byte."""
    return Module(_call(cu.cuModuleLoadData, code))


class Module:
    """Loaded machine code, which is unloaded with the object and its functions."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __del__(self) -> None:
        _destroy(cu.cuModuleUnload, self._module)

    def get_function(self, name: str) -> Function:
        """Returns the kernel of a name."""
        return Function(self, _call(cu.cuModuleGetFunction, self._module, name.encode()))


class Function:
    """A kernel."""

    def __init__(self, module: Module, function: Any) -> None:
        self._module, self._function = module, function
        self._argument_bytes = 0

    def get_attribute(self, attribute: Any) -> int:
        """Returns one of `function_attribute`."""
        return int(_call(cu.cuFuncGetAttribute, attribute, self._function))

    def prepare(self, formats: Sequence[str]) -> Function:
        """Prepares launches with one struct argument.

        Args:
            formats: Its size as a format, such as ["552s"].

        Returns:
            This function.
        """
        (kind,) = formats
        self._argument_bytes = struct.calcsize(kind)
        return self

    def prepared_async_call(
        self, grid: tuple[int, int], block: tuple[int, int, int], stream: Stream | None, argument: np.void
    ) -> None:
        """Queues a launch; the argument has been read on return."""
        data = argument.tobytes()
        if len(data) != self._argument_bytes:
            raise TypeError(f"an argument of {self._argument_bytes} bytes was prepared, {len(data)} bytes given")
        buffer = ctypes.create_string_buffer(data, len(data))
        pointers = ONE_POINTER(ctypes.addressof(buffer))
        _call(cu.cuLaunchKernel, self._function, *grid, 1, *block, 0, _handle_of(stream), ctypes.addressof(pointers), 0)

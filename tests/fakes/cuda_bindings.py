"""Fake cuda.bindings.driver, as far as the GPU backend uses it: names, arguments and results as in cuda-bindings 13.

A function returns a CUresult and then what it writes, or None for each of these where it fails. What a call does, and what it
refuses, is that of the fake pycuda: the two drive the same machine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np

from tests.fakes import gpu as machine
from tests.fakes.memory import Allocation
from tests.fakes.pycuda import allocation, checks, context, copy, kernel, stream

PRIMARY = 0xC0DE


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class CUdevice_attribute(IntEnum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class CUfunction_attribute(IntEnum):
    CU_FUNC_ATTRIBUTE_NUM_REGS = 4


CODES = {
    "initialization error": CUresult.CUDA_ERROR_NOT_INITIALIZED,
    "invalid device ordinal": CUresult.CUDA_ERROR_INVALID_DEVICE,
    "kernel image is invalid": CUresult.CUDA_ERROR_INVALID_IMAGE,
    "invalid device context": CUresult.CUDA_ERROR_INVALID_CONTEXT,
    "no kernel image": CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU,
    "invalid resource handle": CUresult.CUDA_ERROR_INVALID_HANDLE,
    "named symbol not found": CUresult.CUDA_ERROR_NOT_FOUND,
    "capturing": CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
}
"""By a part of the message of the fake pycuda."""

Answer = tuple[Any, ...]


class _Handle:
    """A handle of the driver: a number of a type of its own."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


class CUdevice(_Handle):
    pass


class CUcontext(_Handle):
    pass


class CUstream(_Handle):
    pass


class CUdeviceptr(_Handle):
    pass


class CUevent:
    def __init__(self, event: stream.Event) -> None:
        self.event = event


class CUmodule:
    def __init__(self, module: kernel.Module) -> None:
        self.module, self.unloaded = module, False


class CUfunction:
    def __init__(self, module: CUmodule, function: kernel.Function) -> None:
        self.module, self.function = module, function


def _answer(results: int, call: Callable[[], Any]) -> Answer:
    """Returns the answer of a function with so many results."""
    try:
        value = call()
    except checks.MemoryError:
        return (CUresult.CUDA_ERROR_OUT_OF_MEMORY, *[None] * results)
    except checks.Error as error:
        code = next((code for text, code in CODES.items() if text in str(error)), CUresult.CUDA_ERROR_INVALID_VALUE)
        return (code, *[None] * results)
    return (CUresult.CUDA_SUCCESS, *((value,) if results == 1 else value if results else ()))


def _pointer(value: Any) -> int:
    if not isinstance(value, (int, CUdeviceptr)):
        raise TypeError(f"a device address is an int or a CUdeviceptr, not {type(value).__name__}")
    return int(value)


def _size(value: Any) -> int:
    """Cython takes what has an __index__ for a number of C."""
    return value.__index__()  # type: ignore[no-any-return]


def _queue(handle: Any, call: str) -> Any:
    if not isinstance(handle, (int, CUstream)):
        raise TypeError(f"{call}: a stream is an int or a CUstream, not {type(handle).__name__}")
    queue = machine.current().queue_of(int(handle), call)
    if queue is None:
        raise checks.LogicError(f"{call} failed: invalid resource handle")
    return queue


def _host(value: Any, size: int) -> Any:
    """Like the real one, which does not look whether an array can be written."""
    data = checks.host_bytes(value, False)
    if size > data.nbytes:
        machine.current().report(f"a copy of {size} bytes goes beyond the end of {data.nbytes} bytes on the host")
    return data[:size]


def cuInit(Flags: int) -> Answer:
    machine.current().initialized = True
    return (CUresult.CUDA_SUCCESS,)


def cuDeviceGetCount() -> Answer:
    return _answer(1, context.Device.count)


def cuDeviceGet(ordinal: int) -> Answer:
    context.Device(ordinal)
    return _answer(1, lambda: CUdevice(ordinal))


def cuDeviceGetName(length: int, dev: CUdevice) -> Answer:
    """Like the real one: bytes with the zeros behind the name."""
    return _answer(1, lambda: machine.NAME.encode().ljust(length, b"\0"))


def cuDeviceGetAttribute(attrib: CUdevice_attribute, dev: CUdevice) -> Answer:
    return _answer(1, lambda: machine.current().capability[attrib - 75])


def cuDevicePrimaryCtxRetain(dev: CUdevice) -> Answer:
    def retain() -> CUcontext:
        checks.driver("cuDevicePrimaryCtxRetain", context=False).retained += 1
        return CUcontext(PRIMARY)

    return _answer(1, retain)


def cuCtxPushCurrent(ctx: CUcontext) -> Answer:
    assert isinstance(ctx, CUcontext)
    return _answer(0, lambda: machine.current().push(PRIMARY))


def cuCtxPopCurrent() -> Answer:
    def pop() -> CUcontext:
        checks.driver("cuCtxPopCurrent").pop()
        return CUcontext(PRIMARY)

    return _answer(1, pop)


def cuStreamCreate(Flags: int) -> Answer:
    def create() -> CUstream:
        return CUstream(checks.driver("cuStreamCreate").scheduler.open(blocking=not Flags & 1).handle)

    return _answer(1, create)


def cuStreamDestroy(hStream: CUstream) -> Answer:
    gpu = machine.current()
    queue = gpu.scheduler.queues.get(int(hStream))  # of an earlier test's machine, perhaps
    if queue is not None:
        gpu.scheduler.close(queue)
    return (CUresult.CUDA_SUCCESS,)


def cuStreamSynchronize(hStream: Any) -> Answer:
    def synchronize() -> None:
        gpu, queue = checks.driver("cuStreamSynchronize"), _queue(hStream, "cuStreamSynchronize")
        if queue.captured is not None:
            checks.no_capture(gpu, "cuStreamSynchronize")
        gpu.scheduler.drain(queue)

    return _answer(0, synchronize)


def cuStreamWaitEvent(hStream: Any, hEvent: CUevent, Flags: int) -> Answer:
    def wait() -> None:
        gpu = checks.driver("cuStreamWaitEvent")
        gpu.scheduler.wait(_queue(hStream, "cuStreamWaitEvent"), hEvent.event._record)

    return _answer(0, wait)


def cuEventCreate(Flags: int) -> Answer:
    return _answer(1, lambda: CUevent(stream.Event(Flags)))


def cuEventDestroy(hEvent: CUevent) -> Answer:
    return (CUresult.CUDA_SUCCESS,)


def cuEventRecord(hEvent: CUevent, hStream: Any) -> Answer:
    return _answer(0, lambda: hEvent.event.record(_queue(hStream, "cuEventRecord")))


def cuEventSynchronize(hEvent: CUevent) -> Answer:
    return _answer(0, hEvent.event.synchronize)


def cuMemAlloc(bytesize: int) -> Answer:
    return _answer(1, lambda: CUdeviceptr(int(allocation.mem_alloc(_size(bytesize)))))


def cuMemFree(dptr: CUdeviceptr) -> Answer:
    return _answer(0, lambda: _free(dptr, "device", "cuMemFree"))


def cuMemGetInfo() -> Answer:
    return _answer(2, allocation.mem_get_info)


def cuMemHostAlloc(bytesize: int, Flags: int) -> Answer:
    return _answer(1, lambda: checks.driver("cuMemHostAlloc").allocate(_size(bytesize), "page-locked").address)


def cuMemFreeHost(p: int) -> Answer:
    return _answer(0, lambda: _free(p, "page-locked", "cuMemFreeHost"))


def _free(address: Any, kind: str, call: str) -> None:
    held = machine.current().memory.find(int(address))
    if not isinstance(held, Allocation) or held.kind != kind or held.address != int(address):
        raise checks.LogicError(f"{call} failed: invalid argument")
    allocation._free(held, call)


def cuMemcpyHtoDAsync(dstDevice: Any, srcHost: Any, ByteCount: int, hStream: Any) -> Answer:
    return _answer(
        0,
        lambda: copy.memcpy_htod_async(
            _pointer(dstDevice), _host(srcHost, _size(ByteCount)), _queue(hStream, "memcpy_htod_async")
        ),
    )


def cuMemcpyDtoHAsync(dstHost: Any, srcDevice: Any, ByteCount: int, hStream: Any) -> Answer:
    return _answer(
        0,
        lambda: copy.memcpy_dtoh_async(
            _host(dstHost, _size(ByteCount)), _pointer(srcDevice), _queue(hStream, "memcpy_dtoh_async")
        ),
    )


def cuMemcpyDtoDAsync(dstDevice: Any, srcDevice: Any, ByteCount: int, hStream: Any) -> Answer:
    return _answer(
        0,
        lambda: copy.memcpy_dtod_async(
            _pointer(dstDevice), _pointer(srcDevice), _size(ByteCount), _queue(hStream, "memcpy_dtod_async")
        ),
    )


def cuMemsetD8Async(dstDevice: Any, uc: int, N: int, hStream: Any) -> Answer:
    return _answer(0, lambda: copy.memset_d8_async(_pointer(dstDevice), uc, _size(N), _queue(hStream, "memset_d8_async")))


def cuMemsetD32Async(dstDevice: Any, ui: int, N: int, hStream: Any) -> Answer:
    return _answer(0, lambda: copy.memset_d32_async(_pointer(dstDevice), ui, _size(N), _queue(hStream, "memset_d32_async")))


def cuModuleLoadData(image: Any) -> Answer:
    return _answer(1, lambda: CUmodule(kernel.module_from_buffer(image)))


def cuModuleUnload(hmod: CUmodule) -> Answer:
    hmod.unloaded = True
    return (CUresult.CUDA_SUCCESS,)


def cuModuleGetFunction(hmod: CUmodule, name: bytes) -> Answer:
    if not isinstance(name, bytes):
        raise TypeError("expected bytes, str found")
    return _answer(1, lambda: CUfunction(hmod, hmod.module.get_function(name.decode())))


def cuFuncGetAttribute(attrib: CUfunction_attribute, hfunc: CUfunction) -> Answer:
    return _answer(1, lambda: hfunc.function.get_attribute(attrib))


def cuLaunchKernel(
    f: CUfunction, gridDimX: int, gridDimY: int, gridDimZ: int, blockDimX: int, blockDimY: int, blockDimZ: int,
    sharedMemBytes: int, hStream: Any, kernelParams: int, extra: int,
) -> Answer:  # fmt: skip
    """Reads, like the driver, as many bytes as the kernel takes."""
    from tests.engines.cuda import host_compiler

    def launch() -> None:
        if f.module.unloaded:
            machine.current().report("a kernel was launched after its module was unloaded")
        size = host_compiler.build().host_argument_bytes(f.function._name.encode())
        address = ctypes.c_uint64.from_address(kernelParams).value
        argument = np.void(ctypes.string_at(address, size))
        queue = _queue(hStream, f.function._name)
        f.function._launch((gridDimX, gridDimY, gridDimZ), (blockDimX, blockDimY, blockDimZ), queue, [argument.tobytes()])

    return _answer(0, launch)


def fill(module: ModuleType) -> None:
    """Fills the fake module with its names."""
    for name, value in globals().items():
        if name.startswith(("cu", "CU")) and callable(value):
            setattr(module, name, value)

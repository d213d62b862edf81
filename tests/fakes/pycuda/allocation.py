"""Device memory and page-locked host memory, freed explicitly or reported as leaks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes.memory import Allocation
from tests.fakes.pycuda.checks import LogicError, MemoryError, driver, integer, no_capture


class DeviceAllocation:
    def __init__(self, allocation: Allocation) -> None:
        self._allocation = allocation

    def __int__(self) -> int:
        return self._allocation.address

    __index__ = __int__

    def free(self) -> None:
        _free(self._allocation, "cuMemFree")


class PagelockedHostAllocation:
    """The base of a page-locked array; alive as long as the array is, and its memory until free()."""

    def __init__(self, allocation: Allocation, shape: tuple[int, ...], dtype: np.dtype[Any], order: str) -> None:
        self._allocation = allocation
        steps = np.empty(shape, np.dtype("V1"), order=order).strides if order == "F" else None
        strides = None if steps is None else tuple(step * dtype.itemsize for step in steps)
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (allocation.address, False),
            "strides": strides,
            "version": 3,
        }

    def free(self) -> None:
        _free(self._allocation, "cuMemFreeHost")


def _free(allocation: Allocation, call: str) -> None:
    gpu = driver(call)
    if allocation.freed:
        raise LogicError(f"{call} failed: invalid resource handle")
    with gpu.scheduler.lock:
        gpu.memory.free(allocation)


def mem_alloc(size: int) -> DeviceAllocation:
    gpu = driver("cuMemAlloc")
    no_capture(gpu, "cuMemAlloc")
    if integer(size, "mem_alloc") == 0:
        raise LogicError("cuMemAlloc failed: invalid argument")
    if gpu.memory.used + size > gpu.memory.total:
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(gpu.allocate(size, "device"))


def mem_get_info() -> tuple[int, int]:
    gpu = driver("cuMemGetInfo")
    return gpu.memory.total - gpu.memory.used, gpu.memory.total


def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> NDArray[Any]:
    gpu = driver("cuMemHostAlloc")
    dims = (integer(shape, "pagelocked_empty"),) if isinstance(shape, int) else tuple(int(size) for size in shape)
    kind = np.dtype(dtype)
    nbytes = int(np.prod(dims, dtype=np.int64)) * kind.itemsize
    if nbytes == 0:
        raise LogicError("cuMemHostAlloc failed: invalid argument")
    return np.asarray(PagelockedHostAllocation(gpu.allocate(nbytes, "page-locked"), dims, kind, order))


def pagelocked_zeros(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> NDArray[Any]:
    array = pagelocked_empty(shape, dtype, order, mem_flags)
    array.fill(0)
    return array


def address_of(value: Any, call: str) -> int:
    return int(value) if isinstance(value, DeviceAllocation) else integer(value, call)

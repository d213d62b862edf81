"""memcpy and memset, queued on their stream and checked when they run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes import gpu as machine
from tests.fakes.memory import Allocation, Registration
from tests.fakes.pycuda.allocation import address_of
from tests.fakes.pycuda.checks import driver, host_bytes, integer, no_capture
from tests.fakes.pycuda.stream import Stream, queue_of
from tests.fakes.streams import LEGACY, Queue, Work


def memcpy_htod(dest: Any, src: Any) -> None:
    """From page-locked memory the copy is complete on return; other memory has been read, but the transfer may still be in progress."""
    gpu = driver("cuMemcpyHtoD")
    no_capture(gpu, "cuMemcpyHtoD")
    data, address = host_bytes(src, False), address_of(dest, "memcpy_htod")
    legacy = gpu.scheduler.queues[LEGACY]
    gpu.scheduler.drain(legacy)
    _copy_in(gpu, legacy, address, data, "memcpy_htod", pageable=page_locked(gpu, data) is None)
    if page_locked(gpu, data):
        gpu.scheduler.drain(legacy)


def memcpy_htod_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
    gpu = driver("cuMemcpyHtoDAsync")
    data, address = host_bytes(src, False), address_of(dest, "memcpy_htod_async")
    queue = queue_of(stream, gpu, "memcpy_htod_async")
    _copy_in(gpu, queue, address, data, "memcpy_htod_async", pageable=page_locked(gpu, data) is None)


def memcpy_dtoh(dest: Any, src: Any) -> None:
    gpu = driver("cuMemcpyDtoH")
    no_capture(gpu, "cuMemcpyDtoH")
    data, address = host_bytes(dest, True), address_of(src, "memcpy_dtoh")
    legacy = gpu.scheduler.queues[LEGACY]
    _copy_out(gpu, legacy, data, address, "memcpy_dtoh")
    gpu.scheduler.drain(legacy)


def memcpy_dtoh_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
    gpu = driver("cuMemcpyDtoHAsync")
    data, address = host_bytes(dest, True), address_of(src, "memcpy_dtoh_async")
    _copy_out(gpu, queue_of(stream, gpu, "memcpy_dtoh_async"), data, address, "memcpy_dtoh_async")


def memcpy_dtod(dest: Any, src: Any, size: int) -> None:
    """On the default stream, and not waited for, as cuMemcpyDtoD."""
    gpu = driver("cuMemcpyDtoD")
    _copy_on_device(gpu, gpu.scheduler.queues[LEGACY], dest, src, size, "memcpy_dtod")


def memcpy_dtod_async(dest: Any, src: Any, size: int, stream: Stream | None = None) -> None:
    gpu = driver("cuMemcpyDtoDAsync")
    _copy_on_device(gpu, queue_of(stream, gpu, "memcpy_dtod_async"), dest, src, size, "memcpy_dtod_async")


def memset_d8(dest: Any, data: int, size: int) -> None:
    memset_d8_async(dest, data, size)


def memset_d8_async(dest: Any, data: int, size: int, stream: Stream | None = None) -> None:
    gpu = driver("cuMemsetD8Async")
    address, value, count = address_of(dest, "memset_d8"), integer(data, "memset_d8"), integer(size, "memset_d8")

    def run() -> None:
        view = gpu.memory.view(address, count, "memset_d8_async")
        if view is not None:
            view[:] = value

    gpu.scheduler.add(queue_of(stream, gpu, "memset_d8_async"), Work("memset_d8_async", run))


def memset_d32_async(dest: Any, data: int, size: int, stream: Stream | None = None) -> None:
    """size: in words of 4 bytes."""
    gpu = driver("cuMemsetD32Async")
    address, value, count = address_of(dest, "memset_d32"), integer(data, "memset_d32"), integer(size, "memset_d32")

    def run() -> None:
        view = gpu.memory.view(address, count * 4, "memset_d32_async")
        if view is not None:
            view.view(np.uint32)[:] = value

    gpu.scheduler.add(queue_of(stream, gpu, "memset_d32_async"), Work("memset_d32_async", run))


def page_locked(gpu: machine.FakeGpu, data: NDArray[np.uint8]) -> Allocation | Registration | None:
    """Returns what makes the memory page-locked."""
    if not data.nbytes:
        return None
    owner = gpu.memory.find(data.ctypes.data)
    return owner if owner is not None and owner.kind == "page-locked" else gpu.memory.registration_of(data.ctypes.data)


def _on_host(gpu: machine.FakeGpu, owner: Allocation | Registration | None, data: NDArray[np.uint8], what: str) -> bool:
    """Tells whether page-locked memory of a queued copy is still so when it runs, and reports if not."""
    if isinstance(owner, Registration):
        if owner.freed:
            gpu.report(f"{what}: uses {owner} after it was unregistered")
        return not owner.freed
    return owner is None or gpu.memory.view(data.ctypes.data, data.nbytes, what, "page-locked") is not None


def _count(gpu: machine.FakeGpu, direction: str, owner: object, nbytes: int) -> None:
    gpu.transferred[direction, "pageable" if owner is None else "page-locked"] += nbytes


def _copy_in(gpu: machine.FakeGpu, queue: Queue, to: int, data: NDArray[np.uint8], what: str, pageable: bool) -> None:
    source, owner = np.array(data) if pageable else data, page_locked(gpu, data)
    _count(gpu, "to the device", owner, data.nbytes)

    def run() -> None:
        view = gpu.memory.view(to, source.nbytes, what)
        if view is not None and _on_host(gpu, owner, source, what):
            view[:] = source

    gpu.scheduler.add(queue, Work(what, run))


def _copy_out(gpu: machine.FakeGpu, queue: Queue, data: NDArray[np.uint8], address: int, what: str) -> None:
    owner = page_locked(gpu, data)
    _count(gpu, "to the host", owner, data.nbytes)

    def run() -> None:
        view = gpu.memory.view(address, data.nbytes, what)
        if view is not None and _on_host(gpu, owner, data, what):
            data[:] = view

    gpu.scheduler.add(queue, Work(what, run))


def _copy_on_device(gpu: machine.FakeGpu, queue: Queue, dest: Any, src: Any, size: int, what: str) -> None:
    to, source, count = address_of(dest, what), address_of(src, what), integer(size, what)

    def run() -> None:
        target, data = gpu.memory.view(to, count, what), gpu.memory.view(source, count, what)
        if target is not None and data is not None:
            target[:] = data

    gpu.scheduler.add(queue, Work(what, run))

"""pycuda.driver, as far as the GPU road uses it: names, arguments and errors as in pycuda 2026.1.

Boost.Python takes an `int` for an address or a size and nothing that is only like one (a NumPy integer is refused), and None
or a Stream for a stream; so does this.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes import gpu as machine
from tests.fakes.memory import Allocation
from tests.fakes.streams import LEGACY, Queue, Record, Work

LARGEST_ARGUMENTS = 32764  # bytes, from sm_70 and CUDA 12.1 on


class Error(Exception):
    pass


class MemoryError(Error):
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class RuntimeError(Error):
    pass


class CompileError(Error):
    def __init__(self, msg: str, command_line: list[str], stdout: str | None = None, stderr: str | None = None) -> None:
        super().__init__(msg)
        self.msg, self.command_line, self.stdout, self.stderr = msg, command_line, stdout, stderr


class ctx_flags:
    SCHED_AUTO, SCHED_SPIN, SCHED_YIELD, SCHED_BLOCKING_SYNC, MAP_HOST = 0, 1, 2, 4, 8


class event_flags:
    DEFAULT, BLOCKING_SYNC, DISABLE_TIMING, INTERPROCESS = 0, 1, 2, 4


class host_alloc_flags:
    PORTABLE, DEVICEMAP, WRITECOMBINED = 1, 2, 4


class device_attribute:
    MAX_THREADS_PER_BLOCK, WARP_SIZE, CLOCK_RATE, MULTIPROCESSOR_COUNT = 1, 10, 13, 16
    MEMORY_CLOCK_RATE, GLOBAL_MEMORY_BUS_WIDTH, L2_CACHE_SIZE, MAX_THREADS_PER_MULTIPROCESSOR = 36, 37, 38, 39
    COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76


class function_attribute:
    MAX_THREADS_PER_BLOCK, SHARED_SIZE_BYTES, CONST_SIZE_BYTES, LOCAL_SIZE_BYTES, NUM_REGS = 0, 1, 2, 3, 4


ATTRIBUTES = {1: 1024, 10: 32, 13: 1980000, 16: 132, 36: 2619000, 37: 5120, 38: 50 << 20, 39: 2048, 75: 9, 76: 0}


def _gpu(call: str, context: bool = True) -> machine.FakeGpu:
    """The machine, for a call that needs the driver, and mostly a context on this thread."""
    gpu = machine.current()
    if not gpu.initialized:
        raise LogicError(f"{call} failed: initialization error")
    if context and not gpu.has_context():
        raise LogicError(f"{call} failed: invalid device context")
    if context and gpu.retained == gpu.released:
        gpu.report(f"{call}: the primary context was released and is still used")
    gpu.scheduler.tick()
    return gpu


def _waits(gpu: machine.FakeGpu, call: str) -> None:
    """A call that waits for the device, or allocates: not allowed while a graph is being captured."""
    if gpu.capture_forbids():
        gpu.report(f"{call} while a CUDA graph is being captured")
        raise LogicError(f"{call} failed: operation not permitted when stream is capturing")


def _integer(value: Any, call: str) -> int:
    if not isinstance(value, int):
        raise TypeError(f"Python argument types in {call} did not match C++ signature: {type(value).__name__} for an int")
    if not 0 <= value < 1 << 64:
        raise OverflowError(f"{call}: {value} does not fit an unsigned 64-bit integer")
    return value


def _address(value: Any, call: str) -> int:
    return int(value) if isinstance(value, DeviceAllocation) else _integer(value, call)


def _queue(stream: Any, gpu: machine.FakeGpu, call: str) -> Queue:
    if stream is None:
        return gpu.scheduler.queues[LEGACY]
    if not isinstance(stream, Stream):
        raise TypeError(f"{call}: stream is a Stream or None, not {type(stream).__name__}")
    if stream._gpu is not gpu:
        raise LogicError(f"{call} failed: the stream is of another test's machine")
    return stream._queue


def _host(value: Any, writable: bool) -> NDArray[np.uint8]:
    """The bytes of anything with a contiguous buffer."""
    held = memoryview(value)
    if not held.contiguous:
        raise ValueError("ndarray is not contiguous")
    if writable and held.readonly:
        raise ValueError("buffer source array is read-only")
    if held.nbytes == 0:
        return np.empty(0, np.uint8)
    if isinstance(value, np.ndarray):
        return value.reshape(-1, order="A").view(np.uint8)
    return np.frombuffer(held.cast("B"), np.uint8)


def init(flags: int = 0) -> None:
    machine.current().initialized = True


def get_version() -> tuple[int, int, int]:
    return (13, 0, 0)


def get_driver_version() -> int:
    return machine.current().driver_version


class Device:
    def __init__(self, ordinal: int) -> None:
        _gpu("cuDeviceGet", context=False)
        if _integer(ordinal, "Device") >= Device.count():
            raise LogicError("cuDeviceGet failed: invalid device ordinal")
        self._ordinal = ordinal

    @staticmethod
    def count() -> int:
        _gpu("cuDeviceGetCount", context=False)
        return 1

    def name(self) -> str:
        return machine.NAME

    def pci_bus_id(self) -> str:
        return "0000:01:00.0"

    def compute_capability(self) -> tuple[int, int]:
        return machine.current().capability

    def total_memory(self) -> int:
        return machine.current().memory.total

    def get_attribute(self, attribute: int) -> int:
        return ATTRIBUTES[attribute]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other._ordinal == self._ordinal

    def __hash__(self) -> int:
        return self._ordinal

    def retain_primary_context(self) -> Context:
        gpu = _gpu("cuDevicePrimaryCtxRetain", context=False)
        gpu.retained += 1
        return Context(gpu)

    def make_context(self, flags: int = 0) -> Context:
        machine.current().report("a second context was made: TensorRT and ONNX Runtime use the primary one")
        made = self.retain_primary_context()
        made.push()
        return made


class Context:
    """A primary context, retained once.

    pycuda keeps a stack of its own, of which only the top is on CUDA's. Releasing takes a context off pycuda's and leaves it on
    CUDA's; where it is not current, only the thread that retained it releases it.
    """

    def __init__(self, gpu: machine.FakeGpu) -> None:
        self._gpu, self._valid, self._thread = gpu, True, threading.get_ident()

    def push(self) -> None:
        if not self._valid:
            raise LogicError("cuCtxPushCurrent failed: invalid device context")
        if _stack(self._gpu):
            self._gpu.pop()
        self._gpu.push(self)
        _stack(self._gpu).append(self)
        self._gpu.pycuda_pushed[threading.get_ident()] += 1

    @staticmethod
    def pop() -> None:
        gpu = machine.current()
        if not _stack(gpu):
            raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
        gpu.pop()
        _drop(gpu)
        current = Context.get_current()
        if current is not None:
            gpu.push(current)

    def detach(self) -> None:
        if not self._valid:
            raise LogicError("context::detach failed: invalid device context - cannot detach from invalid context")
        active = Context.get_current() is self
        self._valid = False
        if not active:
            if self._thread != threading.get_ident():
                self._gpu.report("Context.detach on another thread than retained it does nothing: the context leaks")
                return
            self._gpu.push(self)
        self._gpu.released += 1
        current = Context.get_current()
        if active and current is not None:
            self._gpu.push(current)

    @staticmethod
    def get_current() -> Context | None:
        """The top of pycuda's stack, from which released contexts drop off."""
        gpu = machine.current()
        while _stack(gpu) and not _stack(gpu)[-1]._valid:
            _drop(gpu)
        return _stack(gpu)[-1] if _stack(gpu) else None

    @staticmethod
    def get_device() -> Device:
        _gpu("cuCtxGetDevice")
        return Device(0)

    @staticmethod
    def synchronize() -> None:
        gpu = _gpu("cuCtxSynchronize")
        _waits(gpu, "cuCtxSynchronize")
        gpu.scheduler.drain_all()


def _stack(gpu: machine.FakeGpu) -> list[Context]:
    if not hasattr(gpu.stacks, "pycuda"):
        gpu.stacks.pycuda = []
    contexts: list[Context] = gpu.stacks.pycuda
    return contexts


def _drop(gpu: machine.FakeGpu) -> None:
    _stack(gpu).pop()
    gpu.pycuda_pushed[threading.get_ident()] -= 1


class Stream:
    def __init__(self, flags: int = 0) -> None:
        self._gpu = _gpu("cuStreamCreate")
        self._queue = self._gpu.scheduler.open(blocking=not _integer(flags, "Stream") & 1)

    @property
    def handle(self) -> int:
        return self._queue.handle

    def synchronize(self) -> None:
        gpu = _gpu("cuStreamSynchronize")
        if self._queue.captured is not None:
            _waits(gpu, "cuStreamSynchronize")
        gpu.scheduler.drain(self._queue)

    def is_done(self) -> bool:
        _gpu("cuStreamQuery")
        return not self._queue.work

    def wait_for_event(self, event: Event) -> None:
        gpu = _gpu("cuStreamWaitEvent")
        if not isinstance(event, Event):
            raise TypeError("wait_for_event takes an Event")
        gpu.scheduler.wait(self._queue, event._record)

    def __del__(self) -> None:
        if hasattr(self, "_queue"):
            self._gpu.scheduler.close(self._queue)


class Event:
    def __init__(self, flags: int = 0) -> None:
        _gpu("cuEventCreate")
        self._timed = not _integer(flags, "Event") & event_flags.DISABLE_TIMING
        self._record: Record | None = None

    def record(self, stream: Stream | None = None) -> Event:
        gpu = _gpu("cuEventRecord")
        self._record = gpu.scheduler.record(_queue(stream, gpu, "cuEventRecord"))
        return self

    def synchronize(self) -> Event:
        gpu = _gpu("cuEventSynchronize")
        if self._record is not None:
            gpu.scheduler.drain_record(self._record)
        return self

    def query(self) -> bool:
        _gpu("cuEventQuery")
        return self._record is None or self._record.done

    def time_since(self, event: Event) -> float:
        """Milliseconds."""
        if not (self._timed and event._timed):
            raise LogicError("cuEventElapsedTime failed: invalid resource handle")
        if self._record is None or event._record is None:
            raise LogicError("cuEventElapsedTime failed: invalid resource handle")
        if not (self._record.done and event._record.done):
            raise LogicError("cuEventElapsedTime failed: device not ready")
        return (self._record.at - event._record.at) * 1e3

    def time_till(self, event: Event) -> float:
        return event.time_since(self)


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
    gpu = _gpu(call)
    if allocation.freed:
        raise LogicError(f"{call} failed: invalid resource handle")
    with gpu.scheduler.lock:
        gpu.memory.free(allocation)


def mem_alloc(size: int) -> DeviceAllocation:
    gpu = _gpu("cuMemAlloc")
    _waits(gpu, "cuMemAlloc")
    if _integer(size, "mem_alloc") == 0:
        raise LogicError("cuMemAlloc failed: invalid argument")
    if gpu.memory.used + size > gpu.memory.total:
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(gpu.allocate(size, "device"))


def mem_get_info() -> tuple[int, int]:
    gpu = _gpu("cuMemGetInfo")
    return gpu.memory.total - gpu.memory.used, gpu.memory.total


def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> NDArray[Any]:
    gpu = _gpu("cuMemHostAlloc")
    dims = (_integer(shape, "pagelocked_empty"),) if isinstance(shape, int) else tuple(int(size) for size in shape)
    kind = np.dtype(dtype)
    nbytes = int(np.prod(dims, dtype=np.int64)) * kind.itemsize
    if nbytes == 0:
        raise LogicError("cuMemHostAlloc failed: invalid argument")
    return np.asarray(PagelockedHostAllocation(gpu.allocate(nbytes, "page-locked"), dims, kind, order))


def pagelocked_zeros(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> NDArray[Any]:
    made = pagelocked_empty(shape, dtype, order, mem_flags)
    made.fill(0)
    return made


def memcpy_htod(dest: Any, src: Any) -> None:
    """From page-locked memory it is done on return; from other memory it has been read, and the rest may still be on its way."""
    gpu = _gpu("cuMemcpyHtoD")
    _waits(gpu, "cuMemcpyHtoD")
    data, address = _host(src, False), _address(dest, "memcpy_htod")
    legacy = gpu.scheduler.queues[LEGACY]
    gpu.scheduler.drain(legacy)
    _copy_in(gpu, legacy, address, data, "memcpy_htod", pageable=not _page_locked(gpu, data))
    if _page_locked(gpu, data):
        gpu.scheduler.drain(legacy)


def memcpy_htod_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
    gpu = _gpu("cuMemcpyHtoDAsync")
    data, address = _host(src, False), _address(dest, "memcpy_htod_async")
    queue = _queue(stream, gpu, "memcpy_htod_async")
    _copy_in(gpu, queue, address, data, "memcpy_htod_async", pageable=not _page_locked(gpu, data))


def memcpy_dtoh(dest: Any, src: Any) -> None:
    gpu = _gpu("cuMemcpyDtoH")
    _waits(gpu, "cuMemcpyDtoH")
    data, address = _host(dest, True), _address(src, "memcpy_dtoh")
    legacy = gpu.scheduler.queues[LEGACY]
    _copy_out(gpu, legacy, data, address, "memcpy_dtoh")
    gpu.scheduler.drain(legacy)


def memcpy_dtoh_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
    gpu = _gpu("cuMemcpyDtoHAsync")
    data, address = _host(dest, True), _address(src, "memcpy_dtoh_async")
    _copy_out(gpu, _queue(stream, gpu, "memcpy_dtoh_async"), data, address, "memcpy_dtoh_async")


def memcpy_dtod(dest: Any, src: Any, size: int) -> None:
    """On the default stream, and not waited for, as cuMemcpyDtoD."""
    gpu = _gpu("cuMemcpyDtoD")
    _copy_on_device(gpu, gpu.scheduler.queues[LEGACY], dest, src, size, "memcpy_dtod")


def memcpy_dtod_async(dest: Any, src: Any, size: int, stream: Stream | None = None) -> None:
    gpu = _gpu("cuMemcpyDtoDAsync")
    _copy_on_device(gpu, _queue(stream, gpu, "memcpy_dtod_async"), dest, src, size, "memcpy_dtod_async")


def memset_d8(dest: Any, data: int, size: int) -> None:
    memset_d8_async(dest, data, size)


def memset_d8_async(dest: Any, data: int, size: int, stream: Stream | None = None) -> None:
    gpu = _gpu("cuMemsetD8Async")
    address, value, count = _address(dest, "memset_d8"), _integer(data, "memset_d8"), _integer(size, "memset_d8")

    def run() -> None:
        view = gpu.memory.view(address, count, "memset_d8_async")
        if view is not None:
            view[:] = value

    gpu.scheduler.add(_queue(stream, gpu, "memset_d8_async"), Work("memset_d8_async", run))


def memset_d32_async(dest: Any, data: int, size: int, stream: Stream | None = None) -> None:
    """size: in words of 4 bytes."""
    gpu = _gpu("cuMemsetD32Async")
    address, value, count = _address(dest, "memset_d32"), _integer(data, "memset_d32"), _integer(size, "memset_d32")

    def run() -> None:
        view = gpu.memory.view(address, count * 4, "memset_d32_async")
        if view is not None:
            view.view(np.uint32)[:] = value

    gpu.scheduler.add(_queue(stream, gpu, "memset_d32_async"), Work("memset_d32_async", run))


def _page_locked(gpu: machine.FakeGpu, data: NDArray[np.uint8]) -> bool:
    if not data.nbytes:
        return False
    found = gpu.memory.find(data.ctypes.data)
    return found is not None and found.kind == "page-locked"


def _on_host(gpu: machine.FakeGpu, data: NDArray[np.uint8], what: str) -> bool:
    """Whether page-locked memory of a queued copy is still there when it runs; a report otherwise."""
    return not _page_locked(gpu, data) or gpu.memory.view(data.ctypes.data, data.nbytes, what, "page-locked") is not None


def _copy_in(gpu: machine.FakeGpu, queue: Queue, to: int, data: NDArray[np.uint8], what: str, pageable: bool) -> None:
    source = np.array(data) if pageable else data

    def run() -> None:
        view = gpu.memory.view(to, source.nbytes, what)
        if view is not None and _on_host(gpu, source, what):
            view[:] = source

    gpu.scheduler.add(queue, Work(what, run))


def _copy_out(gpu: machine.FakeGpu, queue: Queue, data: NDArray[np.uint8], address: int, what: str) -> None:
    def run() -> None:
        view = gpu.memory.view(address, data.nbytes, what)
        if view is not None and _on_host(gpu, data, what):
            data[:] = view

    gpu.scheduler.add(queue, Work(what, run))


def _copy_on_device(gpu: machine.FakeGpu, queue: Queue, dest: Any, src: Any, size: int, what: str) -> None:
    to, source, count = _address(dest, what), _address(src, what), _integer(size, what)

    def run() -> None:
        target, data = gpu.memory.view(to, count, what), gpu.memory.view(source, count, what)
        if target is not None and data is not None:
            target[:] = data

    gpu.scheduler.add(queue, Work(what, run))


def module_from_buffer(buffer: Any, options: list[Any] = [], message_handler: Any = None) -> Module:  # noqa: B006
    _gpu("cuModuleLoadDataEx")
    from tests.fakes.pycuda_compiler import read

    content = read(bytes(memoryview(buffer)))
    if content is None:
        raise LogicError("cuModuleLoadDataEx failed: device kernel image is invalid - ")
    if content["arch"] != "sm_{}{}".format(*machine.current().capability):
        raise LogicError("cuModuleLoadDataEx failed: no kernel image is available for execution on the device - ")
    return Module(content["kernels"])


class Module:
    def __init__(self, kernels: list[str]) -> None:
        self._kernels = kernels

    def get_function(self, name: str) -> Function:
        if name not in self._kernels:
            raise LogicError("cuModuleGetFunction failed: named symbol not found")
        return Function(name)


class Function:
    """A kernel. Every one of ours takes one plain struct, which is what it is given as bytes."""

    num_regs, local_size_bytes, shared_size_bytes, const_size_bytes, max_threads_per_block = 32, 0, 0, 0, 1024

    def __init__(self, name: str) -> None:
        self._name = name
        self._format: list[Any] = []

    def get_attribute(self, attribute: int) -> int:
        values = (
            self.max_threads_per_block,
            self.shared_size_bytes,
            self.const_size_bytes,
            self.local_size_bytes,
            self.num_regs,
        )
        return values[attribute]

    def __call__(self, *args: Any, **options: Any) -> None:
        grid, block, stream = options.pop("grid", (1, 1)), options.pop("block", None), options.pop("stream", None)
        options.pop("shared", None)
        if options:
            raise ValueError(f"extra keyword arguments: {','.join(options)}")
        if block is None:
            raise ValueError("must specify block size")
        self._launch(grid, block, stream, [_argument(arg, index) for index, arg in enumerate(args)])

    def prepare(self, arg_types: Any, texrefs: Any = None) -> Function:
        self._format = list(arg_types)
        return self

    def prepared_async_call(self, grid: Any, block: Any, stream: Any, *args: Any, shared_size: int = 0) -> None:
        if len(args) != len(self._format):
            raise TypeError(f"{len(self._format)} arguments were prepared, {len(args)} given")
        data = [_argument(arg, index) for index, arg in enumerate(args)]
        for kind, packed in zip(self._format, data, strict=True):
            if isinstance(kind, str) and struct.calcsize(kind) != len(packed):
                raise TypeError(f"{kind} was prepared, {len(packed)} bytes given")
        self._launch(grid, block, stream, data)

    def _launch(self, grid: Any, block: Any, stream: Any, arguments: list[bytes]) -> None:
        gpu = _gpu("cuLaunchKernel")
        name, data = self._name, b"".join(arguments)
        for sizes in (grid, block):
            if not 1 <= len(sizes) <= 3 or any(not isinstance(size, int) or size < 1 for size in sizes):
                raise LogicError(f"cuLaunchKernel failed: invalid argument - {grid} blocks of {block}")
        if len(arguments) != 1:
            gpu.report(f"kernel {name}: takes one struct by value, was given {len(arguments)} arguments")
        if len(data) > LARGEST_ARGUMENTS:
            raise LogicError("cuLaunchKernel failed: invalid argument")
        threads = prod(block)
        if threads > 1024 or (len(block) > 2 and block[2] > 64) or any(size > 65535 for size in grid[1:]):
            raise LogicError(f"cuLaunchKernel failed: invalid argument - {grid} blocks of {block}")
        run = kernel(gpu, name, tuple(grid), tuple(block), data)
        gpu.launches[name] += 1
        gpu.scheduler.add(_queue(stream, gpu, name), Work(f"kernel {name}", run))


def kernel(gpu: machine.FakeGpu, name: str, grid: tuple[int, ...], block: tuple[int, ...], data: bytes) -> Callable[[], None]:
    """The launch as queued work."""
    words = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)

    def run() -> None:
        gpu.memory.look_for_freed(words, f"kernel {name}")
        if gpu.kernel is None:
            from tests.engines.cuda import host

            host.launch(name, prod(grid), prod(block), data)
        else:
            gpu.kernel(name, grid, block, data)

    return run


def _argument(arg: Any, index: int) -> bytes:
    """As pycuda packs it; what it refuses is refused."""
    if isinstance(arg, (np.number, np.ndarray, np.void)):
        return arg.tobytes()
    if isinstance(arg, DeviceAllocation):
        return int(arg).to_bytes(8, "little")
    raise TypeError(f"invalid type on parameter #{index} (0-based)")


def fill(module: ModuleType) -> None:
    """Give the stand-in module its names."""
    for name, value in globals().items():
        if not name.startswith("_") and getattr(value, "__module__", None) == __name__ and name not in ("fill", "kernel"):
            setattr(module, name, value)

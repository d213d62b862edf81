"""Fake pycuda.driver, as far as the GPU backend uses it: names, arguments and errors as in pycuda 2026.1.

Boost.Python accepts only an `int` for an address or a size (a NumPy integer is refused), and None
or a Stream for a stream; so does this.
"""

from __future__ import annotations

from types import ModuleType

from tests.fakes import gpu as machine
from tests.fakes.pycuda import allocation, checks, context, copy, kernel, stream


class ctx_flags:
    SCHED_AUTO, SCHED_SPIN, SCHED_YIELD, SCHED_BLOCKING_SYNC, MAP_HOST = 0, 1, 2, 4, 8


class host_alloc_flags:
    PORTABLE, DEVICEMAP, WRITECOMBINED = 1, 2, 4


class device_attribute:
    MAX_THREADS_PER_BLOCK, WARP_SIZE, CLOCK_RATE, MULTIPROCESSOR_COUNT = 1, 10, 13, 16
    MEMORY_CLOCK_RATE, GLOBAL_MEMORY_BUS_WIDTH, L2_CACHE_SIZE, MAX_THREADS_PER_MULTIPROCESSOR = 36, 37, 38, 39
    COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76


class function_attribute:
    MAX_THREADS_PER_BLOCK, SHARED_SIZE_BYTES, CONST_SIZE_BYTES, LOCAL_SIZE_BYTES, NUM_REGS = 0, 1, 2, 3, 4


def init(flags: int = 0) -> None:
    machine.current().initialized = True


def get_version() -> tuple[int, int, int]:
    return (13, 0, 0)


def get_driver_version() -> int:
    return machine.current().driver_version


CONTENT = (
    *(ctx_flags, host_alloc_flags, device_attribute, function_attribute, init, get_version, get_driver_version),
    *(checks.Error, checks.MemoryError, checks.LogicError, checks.LaunchError, checks.RuntimeError),
    *(context.Device, context.Context, stream.Stream, stream.Event, stream.event_flags),
    *(allocation.DeviceAllocation, allocation.PagelockedHostAllocation, allocation.mem_alloc, allocation.mem_get_info),
    *(allocation.pagelocked_empty, allocation.pagelocked_zeros),
    *(copy.memcpy_htod, copy.memcpy_htod_async, copy.memcpy_dtoh, copy.memcpy_dtoh_async, copy.memcpy_dtod),
    *(copy.memcpy_dtod_async, copy.memset_d8, copy.memset_d8_async, copy.memset_d32_async),
    *(kernel.module_from_buffer, kernel.Module, kernel.Function),
)
"""Everything that the fake module has."""


def fill(module: ModuleType) -> None:
    """Fills the fake module with its names."""
    for value in CONTENT:
        setattr(module, value.__name__, value)

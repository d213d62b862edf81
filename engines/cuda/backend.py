"""The CUDA driver through pycuda or cuda-bindings, whichever `driver.find_cuda_package` chooses when this is imported.

The names are those of pycuda.driver. All modules that need them import this one: `from engines.cuda import backend as cuda`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dni_deploy.errors import UnavailableError
from engines.cuda import driver

if (_reason := driver.why_no_cuda_package()) is not None:
    raise UnavailableError(f"No GPU can be used: {_reason}.")

if TYPE_CHECKING or driver.find_cuda_package() != "pycuda":
    from engines.cuda.cuda_bindings import (
        Context,
        Device,
        DeviceAllocation,
        Error,
        Event,
        MemoryError,
        Stream,
        event_flags,
        function_attribute,
        init,
        mem_alloc,
        mem_get_info,
        memcpy_dtod_async,
        memcpy_dtoh_async,
        memcpy_htod_async,
        memset_d8_async,
        memset_d32_async,
        module_from_buffer,
        pagelocked_empty,
    )
else:
    from pycuda.driver import (
        Context,
        Device,
        DeviceAllocation,
        Error,
        Event,
        MemoryError,
        Stream,
        event_flags,
        function_attribute,
        init,
        mem_alloc,
        mem_get_info,
        memcpy_dtod_async,
        memcpy_dtoh_async,
        memcpy_htod_async,
        memset_d8_async,
        memset_d32_async,
        module_from_buffer,
        pagelocked_empty,
    )

__all__ = [
    "Context",
    "Device",
    "DeviceAllocation",
    "Error",
    "Event",
    "MemoryError",
    "Stream",
    "event_flags",
    "function_attribute",
    "init",
    "mem_alloc",
    "mem_get_info",
    "memcpy_dtod_async",
    "memcpy_dtoh_async",
    "memcpy_htod_async",
    "memset_d8_async",
    "memset_d32_async",
    "module_from_buffer",
    "pagelocked_empty",
]

"""Modules and their functions, run by the host compiler's build of the same source."""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tests.fakes import gpu as machine
from tests.fakes import machine_code
from tests.fakes.pycuda.allocation import DeviceAllocation
from tests.fakes.pycuda.checks import LogicError, driver
from tests.fakes.pycuda.stream import queue_of
from tests.fakes.streams import Work

LARGEST_ARGUMENTS = 32764  # bytes, from sm_70 and CUDA 12.1 on


def module_from_buffer(buffer: Any, options: list[Any] = [], message_handler: Any = None) -> Module:  # noqa: B006
    gpu = driver("cuModuleLoadDataEx")
    code = machine_code.read(bytes(memoryview(buffer)))
    if code is None or code.needs > (gpu.driver_version // 1000, gpu.driver_version % 1000 // 10):
        raise LogicError("cuModuleLoadDataEx failed: device kernel image is invalid - ")
    if not code.runs_on(gpu.capability):
        raise LogicError("cuModuleLoadDataEx failed: no kernel image is available for execution on the device - ")
    gpu.loaded.append(code)
    return Module(code.kernels)


class Module:
    def __init__(self, kernels: tuple[str, ...]) -> None:
        self._kernels = kernels

    def get_function(self, name: str) -> Function:
        if name not in self._kernels:
            raise LogicError("cuModuleGetFunction failed: named symbol not found")
        return Function(name)


class Function:
    """A kernel. All our kernels take one plain struct, passed as bytes."""

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
        gpu = driver("cuLaunchKernel")
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
        gpu.scheduler.add(queue_of(stream, gpu, name), Work(f"kernel {name}", run))


def kernel(gpu: machine.FakeGpu, name: str, grid: tuple[int, ...], block: tuple[int, ...], data: bytes) -> Callable[[], None]:
    """Returns the launch as queued work."""
    words = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)

    def run() -> None:
        gpu.memory.look_for_freed(words, f"kernel {name}")
        if gpu.kernel is None:
            from tests.engines.cuda import host_compiler

            host_compiler.launch(name, prod(grid), prod(block), data)
        else:
            gpu.kernel(name, grid, block, data)

    return run


def _argument(arg: Any, index: int) -> bytes:
    """Packs an argument like pycuda, and refuses what it refuses."""
    if isinstance(arg, (np.number, np.ndarray, np.void)):
        return arg.tobytes()
    if isinstance(arg, DeviceAllocation):
        return int(arg).to_bytes(8, "little")
    raise TypeError(f"invalid type on parameter #{index} (0-based)")

"""Runs engines/cuda/cuda_bindings.py on the real cuda-bindings and the stub of libcuda. A program of its own, without fakes.

LD_LIBRARY_PATH=<folder of libcuda.so.1> python -m tests.engines.cuda.on_libcuda_stub
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engines.cuda import cuda_bindings as cuda
from engines.cuda import machine_code


def refuse(code: str, call: Callable[[], Any]) -> None:
    """Requires that a call fails with an error of the driver."""
    kind = cuda.MemoryError if code == "OUT_OF_MEMORY" else cuda.Error
    with pytest.raises(kind, match=f"failed: CUDA_ERROR_{code}$"):
        call()


def check_copies(stream: cuda.Stream) -> None:
    """Arrays and addresses reach the driver as they are."""
    first, second = cuda.mem_alloc(1024), cuda.mem_alloc(1024)
    cuda.memcpy_htod_async(int(first), np.arange(512, dtype=np.float16), stream)
    cuda.memset_d8_async(int(first) + 2, 0, 2, stream)
    cuda.memset_d32_async(int(first) + 8, 0x3C003C00, 1, stream)
    cuda.memcpy_dtod_async(int(second), int(first), 1024, stream)
    result = np.empty(8, np.float16)
    cuda.memcpy_dtoh_async(result, int(second), stream)
    assert result.tolist() == [0, 0, 2, 3, 1, 1, 6, 7]
    locked = cuda.pagelocked_empty(64, np.uint8)
    locked[:] = 5
    cuda.memcpy_htod_async(int(first), locked[:32])
    cuda.memcpy_dtoh_async(result, int(first), stream)
    assert set(result.view(np.uint8).tolist()) == {5}
    for memory in (locked.base, first, second):
        memory.free()  # type: ignore[union-attr]


def check_waits(stream: cuda.Stream, event: cuda.Event) -> None:
    """Other threads run while one waits."""
    for wait in (stream.synchronize, event.synchronize):
        ended, turns = threading.Event(), 0
        thread = threading.Thread(target=lambda wait=wait, ended=ended: (wait(), ended.set()))
        thread.start()
        while not ended.is_set():
            turns += 1
            time.sleep(0.001)
        thread.join()
        assert turns > 10, turns


def check_launch(stream: cuda.Stream) -> None:
    """The driver gets the struct, byte for byte."""
    module = cuda.module_from_buffer(next(machine_code.read_shipped_code((9, 0), machine_code.KERNEL_SOURCE)))
    function = module.get_function("fold").prepare(["552s"])
    assert function.get_attribute(cuda.function_attribute.NUM_REGS) == 40
    memory, result = cuda.mem_alloc(544), np.empty(544, np.uint8)
    content = np.random.default_rng(0).integers(0, 256, 544, np.uint8).tobytes()
    function.prepared_async_call((7, 1), (256, 1, 1), stream, np.void(int(memory).to_bytes(8, "little") + content))
    cuda.memcpy_dtoh_async(result, int(memory), stream)
    assert result.tobytes() == content
    memory.free()
    refuse("NOT_FOUND", lambda: module.get_function("nothing"))


def main() -> None:
    cuda.init()
    device = cuda.Device(0)
    assert (cuda.Device.count(), device.name(), device.compute_capability()) == (1, "Stub", (9, 1))
    device.retain_primary_context().push()
    assert cuda.mem_get_info() == (123, 456)
    stream, event = cuda.Stream(1), cuda.Event(cuda.event_flags.DISABLE_TIMING | cuda.event_flags.BLOCKING_SYNC)
    stream.wait_for_event(event.record(stream))
    assert stream.handle == 0x22
    check_copies(stream)
    check_waits(stream, event)
    check_launch(stream)
    refuse("INVALID_IMAGE", lambda: cuda.module_from_buffer(b".version 7.0\0"))
    refuse("OUT_OF_MEMORY", lambda: cuda.mem_alloc(1 << 33))
    refuse("INVALID_VALUE", lambda: cuda.mem_alloc(0))
    refuse("INVALID_DEVICE", lambda: cuda.Device(3))
    cuda.Context.pop()
    refuse("INVALID_CONTEXT", cuda.Context.pop)
    del stream, event
    assert ctypes.CDLL("libcuda.so.1").count_destroyed() == 3  # stream, event and module


if __name__ == "__main__":
    main()

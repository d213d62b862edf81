"""The fake GPU refuses or reports what is incorrect on a real one, and accepts correct use."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dni_deploy.errors import EngineError
from tests.fakes.gpu import FakeGpu, current, install


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A machine without TensorRT that is not checked afterwards, unlike `gpu`: these tests misuse it on purpose."""
    return install(monkeypatch, tensorrt=None)


@contextmanager
def context() -> Iterator[ModuleType]:
    import pycuda.driver as cuda

    cuda.init()
    primary = cuda.Device(0).retain_primary_context()
    primary.push()
    yield cuda
    primary.detach()  # while it is current; CUDA's own stack keeps it then
    assert cuda.Context.get_current() is None
    current().pop()


def only(fake: FakeGpu, words: str) -> None:
    assert len(fake.violations) == 1, fake.violations
    assert words in fake.violations[0]


def test_correct_use_passes_the_check(fake: FakeGpu) -> None:
    with context() as cuda:
        memory, stream = cuda.mem_alloc(12), cuda.Stream(1)
        host = cuda.pagelocked_empty((3,), np.float32)
        host[:] = (1, 2, 3)
        cuda.memcpy_htod_async(memory, host, stream)
        back = np.empty(3, np.float32)
        cuda.memcpy_dtoh_async(back, memory, stream)
        assert back.tolist() != [1, 2, 3]  # nothing has advanced the stream yet
        stream.synchronize()
        assert back.tolist() == [1, 2, 3]
        memory.free()
        host.base.free()
    fake.check()


def test_missing_context_on_this_thread_is_refused(fake: FakeGpu) -> None:
    errors: list[BaseException] = []
    with context() as cuda:

        def run() -> None:
            try:
                cuda.mem_alloc(4)
            except cuda.LogicError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert "invalid device context" in str(errors[0])


def test_calls_before_init_are_refused(fake: FakeGpu) -> None:
    import pycuda.driver as cuda

    with pytest.raises(cuda.LogicError, match="initialization error"):
        cuda.Device(0)


@pytest.mark.parametrize("late", ["free", "beyond", "other"])
def test_copy_to_unallocated_memory_is_reported(fake: FakeGpu, late: str) -> None:
    with context() as cuda:
        memory, stream = cuda.mem_alloc(12), cuda.Stream(1)
        address = int(memory) + {"free": 0, "beyond": 4, "other": 1 << 40}[late]
        cuda.memcpy_htod_async(address, np.zeros(3, np.float32), stream)
        if late == "free":
            memory.free()
        stream.synchronize()
    only(fake, {"free": "after it was freed", "beyond": "beyond its end", "other": "no device memory"}[late])


def test_page_locked_memory_freed_before_the_copy_is_reported(fake: FakeGpu) -> None:
    with context() as cuda:
        memory, stream = cuda.mem_alloc(12), cuda.Stream(1)
        host = cuda.pagelocked_empty(3, np.float32)
        cuda.memcpy_htod_async(memory, host, stream)
        host.base.free()
        stream.synchronize()
        memory.free()
    only(fake, "page-locked memory of 12 bytes")


def test_freed_memory_is_poisoned_and_leaks_are_listed(fake: FakeGpu) -> None:
    with context() as cuda:
        memory, other = cuda.mem_alloc(8), cuda.mem_alloc(8)
        cuda.memcpy_htod(memory, np.ones(2, np.float32))
        fake.scheduler.drain_all()
        view = fake.memory.find(int(memory)).bytes.view(np.float32)  # type: ignore[union-attr]
        assert view.tolist() == [1, 1]
        memory.free()
        assert np.isnan(view).all()
        with pytest.raises(cuda.LogicError):
            memory.free()
        assert fake.leaks()[0].startswith("device memory of 8 bytes")
        other.free()
    assert fake.leaks() == []


def test_leaked_context_is_reported(fake: FakeGpu) -> None:
    import pycuda.driver as cuda

    cuda.init()
    cuda.Device(0).retain_primary_context().push()
    assert any("never popped" in leak for leak in fake.leaks())
    assert not any("released" in leak for leak in fake.leaks())
    cuda.Device(0).retain_primary_context()
    assert any("retained 2 times and released 0 times" in leak for leak in fake.leaks())


def test_synchronous_htod_does_not_wait_for_other_streams(fake: FakeGpu) -> None:
    """The copy from pageable memory may still be in progress when the call returns."""
    with context() as cuda:
        memory, stream = cuda.mem_alloc(4), cuda.Stream(1)
        cuda.memcpy_htod(memory, np.ones(1, np.float32))
        back = np.empty(1, np.float32)
        cuda.memcpy_dtoh_async(back, memory, stream)
        stream.synchronize()
        assert np.isnan(back[0])
        cuda.Context.synchronize()
        cuda.memcpy_dtoh(back, memory)
        assert back[0] == 1
        memory.free()
    fake.check()


def test_event_wait_refers_to_the_latest_earlier_record(fake: FakeGpu) -> None:
    with context() as cuda:
        first, second, event = cuda.Stream(1), cuda.Stream(1), cuda.Event()
        memory = cuda.mem_alloc(4)
        back = np.zeros(1, np.int32)
        second.wait_for_event(event)  # no record yet: waits for nothing
        cuda.memset_d8_async(memory, 1, 4, first)
        event.record(first)
        cuda.memcpy_dtoh_async(back, memory, second)
        second.synchronize()
        assert back[0] == -1
        second.wait_for_event(event)
        cuda.memset_d8_async(memory, 2, 4, first)
        event.record(first)  # later record: not what second waits for
        cuda.memcpy_dtoh_async(back, memory, second)
        second.synchronize()
        assert back[0] == 0x01010101
        cuda.Context.synchronize()
        memory.free()
    fake.check()


def test_random_scheduling_finds_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[Any] = set()
    for seed in range(40):
        fake = install(monkeypatch, tensorrt=None, seed=seed)
        with context() as cuda:
            first, second, memory = cuda.Stream(1), cuda.Stream(1), cuda.mem_alloc(1)
            back = np.zeros(1, np.uint8)
            cuda.memset_d8_async(memory, 1, 1, first)
            cuda.memcpy_dtoh_async(back, memory, second)
            second.synchronize()
            seen.add(int(back[0]))
            first.synchronize()
            memory.free()
        fake.check()
    assert seen == {1, 255}


def test_numpy_integers_are_refused(fake: FakeGpu) -> None:
    with context() as cuda, pytest.raises(TypeError, match="int64 for an int"):
        cuda.mem_alloc(np.int64(4))


def test_kernel_arguments_are_checked(fake: FakeGpu) -> None:
    """One struct by value; its pointers are checked when the kernel runs; an out-of-bounds write is detected."""
    from tests.fakes.pycuda.kernel import Function

    seen: list[bytes] = []

    def kernel(name: str, grid: Any, block: Any, data: bytes) -> None:
        seen.append(data)
        allocation = fake.memory.find(int(np.frombuffer(data, np.uint64)[0]))
        assert allocation is not None
        allocation.memory[allocation.start + allocation.nbytes] = 0

    fake.kernel = kernel
    with context() as cuda:
        memory = cuda.mem_alloc(8)
        struct = np.zeros((), [("pointer", "u8"), ("count", "u4"), ("pad", "u4")])
        struct["pointer"] = int(memory)
        Function("any")(struct[()], block=(32, 1, 1), grid=(1, 1))
        with pytest.raises(TypeError, match="invalid type on parameter #0"):
            Function("any")(struct.tobytes(), block=(32, 1, 1), grid=(1, 1))
        cuda.Context.synchronize()
        assert seen == [struct.tobytes()]
        memory.free()
        only(fake, "wrote outside")
        fake.violations.clear()
        Function("any")(struct[()], block=(32, 1, 1), grid=(1, 1))
        cuda.Context.synchronize()
    assert "after it was freed" in fake.violations[0]


def test_graph_replays_the_captured_work(fake: FakeGpu) -> None:
    import ctypes

    from engines.cuda import driver

    library: Any = driver.load_driver_library()
    with context() as cuda:
        stream, memory = cuda.Stream(1), cuda.mem_alloc(2)
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        handle = ctypes.c_void_p(stream.handle)
        assert library.cuStreamBeginCapture_v2(handle, 0) == 0
        cuda.memset_d8_async(memory, 7, 1, stream)
        with pytest.raises(cuda.LogicError, match="capturing"):
            cuda.mem_alloc(4)
        fake.violations.clear()
        assert library.cuStreamEndCapture(handle, ctypes.byref(graph)) == 0
        assert library.cuGraphInstantiateWithFlags(ctypes.byref(ready), graph, ctypes.c_ulonglong(0)) == 0
        assert library.cuGraphDestroy(graph) == 0
        back = np.zeros(2, np.uint8)
        cuda.memcpy_dtoh(back, memory)
        assert back.tolist() == [255, 255]
        assert library.cuGraphLaunch(ready, handle) == 0
        stream.synchronize()
        cuda.memcpy_dtoh(back, memory)
        assert back.tolist() == [7, 255]
        assert any("never destroyed" in leak for leak in fake.leaks())
        assert library.cuGraphExecDestroy(ready) == 0
        memory.free()
    fake.check()


@pytest.mark.parametrize("unregistered", [False, True])
def test_registered_memory_must_stay_so_until_the_copy_has_run(fake: FakeGpu, unregistered: bool) -> None:
    with context() as cuda:
        from engines.cuda.driver import call_driver

        host = np.empty(3 * 4096, np.uint8)
        host = host[-host.ctypes.data % 4096 :][:4096]
        address, size = ctypes.c_void_p(host.ctypes.data), ctypes.c_size_t(4096)
        call_driver("cuMemHostRegister_v2", address, size, ctypes.c_uint(0))
        with pytest.raises(EngineError, match="cuMemHostRegister_v2 failed"):
            call_driver("cuMemHostRegister_v2", address, size, ctypes.c_uint(0))
        assert [str(one).split(" at ")[0] for one in fake.memory.living()] == ["registered memory of 4096 bytes"]
        memory, stream = cuda.mem_alloc(4096), cuda.Stream(1)
        cuda.memcpy_htod_async(memory, np.zeros(4096, np.uint8), stream)
        cuda.memcpy_dtoh_async(host[:8], memory, stream)
        if not unregistered:
            stream.synchronize()
        call_driver("cuMemHostUnregister", address)
        with pytest.raises(EngineError, match="cuMemHostUnregister failed"):
            call_driver("cuMemHostUnregister", address)
        stream.synchronize()
        memory.free()
    assert fake.transferred == {("to the device", "pageable"): 4096, ("to the host", "page-locked"): 8}
    if unregistered:
        only(fake, "after it was unregistered")
    else:
        fake.check()

"""Device and page-locked memory: copies that every stream sees, and misuse as errors in a sentence."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dni_deploy.errors import EngineError, LimitError
from tests.fakes.gpu import FakeGpu

BOTH_BACKENDS = True


@pytest.mark.parametrize("gpu", [{"seed": seed} for seed in range(6)], indirect=True)
def test_what_is_uploaded_is_there_for_every_stream(gpu: FakeGpu) -> None:
    """Although the plain copy of CUDA is not: from pageable memory it returns while the data is on its way."""
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer

    device = Device.open()
    with device:
        buffer, stream = Buffer(device, 12), device.create_stream()
        buffer.upload(np.float32([1, 2, 3]))
        back = np.empty(3, np.float32)
        buffer.download(back, stream)
        stream.synchronize()
        assert back.tolist() == [1, 2, 3]
        buffer.upload(np.float32([5]), offset=4)
        buffer.download(back)
        assert back.tolist() == [1, 5, 3]
        buffer.zero()
        buffer.download(back[1:], offset=4)
        assert back.tolist() == [1, 0, 0]
        buffer.free()
        del stream
    device.close()


def test_misuse_of_a_buffer(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer

    device = Device.open()
    with device:
        buffer, empty = Buffer(device, 8), Buffer(device, 0)
        assert buffer.pointer % 256 == 0
        empty.upload(np.zeros(0, np.float32))
        empty.zero()
        for call in (buffer.upload, buffer.download):
            with pytest.raises(EngineError, match="12 bytes do not fit a buffer of 8 bytes at 0"):
                call(np.zeros(3, np.float32))
            with pytest.raises(EngineError, match="8 bytes do not fit a buffer of 8 bytes at 4"):
                call(np.zeros(2, np.float32), offset=4)
        empty.free()
        buffer.free()
        buffer.free()
        assert buffer.pointer == 0
        with pytest.raises(EngineError, match="after it was freed"):
            buffer.zero()
        gpu.memory.total = 1 << 20
        with pytest.raises(LimitError, match=r"has 1 MB free where 2\.0 MB are needed"):
            Buffer(device, 2 << 20)
    device.close()


def test_staging_grows_and_is_freed(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device
    from engines.cuda.memory import Staging

    device = Device.open()
    with device:
        staging = Staging(device)
        first = staging.get_array((2, 3))
        first[:] = 7
        assert first.dtype == np.float32
        assert np.all(staging.get_array((6,)) == 7)  # the same memory
        large = staging.get_array((5, 100), np.uint8)
        large[:] = 1
        assert staging.get_array((0, 3)).shape == (0, 3)
        staging.free()
        staging.free()
    device.close()


@pytest.fixture
def device(gpu: FakeGpu) -> Iterator[Any]:
    """A device that this thread holds."""
    from engines.cuda.device import Device

    device = Device.open()
    with device:
        yield device
    device.close()


@pytest.fixture
def pool(device: Any) -> Iterator[Any]:
    from engines.cuda.memory import PageLockedPool

    pool = PageLockedPool()
    yield pool
    pool.close()
    pool.close()


def test_a_growing_buffer_keeps_the_largest(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device
    from engines.cuda.memory import GrowingBuffer

    device = Device.open()
    with device:
        growing = GrowingBuffer(device)
        first = growing.get_buffer(100)
        assert growing.get_buffer(60) is first
        second = growing.get_buffer(101)
        assert (first.pointer, second.nbytes) == (0, 101)
        gpu.memory.total = 1 << 10
        with pytest.raises(LimitError):
            growing.get_buffer(2 << 10)
        assert growing.get_buffer(8).nbytes == 8  # of what was freed nothing is left
        growing.free()
        growing.free()
    device.close()


def test_pooled_memory_comes_back_with_the_last_view(gpu: FakeGpu, pool: Any) -> None:
    array = pool.take(10_000)
    address, part = array.ctypes.data, array[5:].view(np.uint8)[2:3]
    assert (array.dtype, array.shape, address % 4096, array.flags.writeable) == (np.uint8, (10_000,), 0, True)
    assert pool.take(10_000).ctypes.data != address
    del array
    assert pool.take(10_000).ctypes.data != address
    del part
    gc.collect()
    assert address in [pool.take(10_000).ctypes.data, pool.take(9_000).ctypes.data]
    assert len(gpu.memory.living("registered")) == 2


def test_pooled_memory_of_another_size_makes_room(gpu: FakeGpu, pool: Any) -> None:
    from engines.cuda.memory import MAX_POOLED_ARRAYS

    held = [pool.take(size * 4096) for size in range(1, MAX_POOLED_ARRAYS + 1)]
    assert len(gpu.memory.living("registered")) == MAX_POOLED_ARRAYS
    ordinary = pool.take(4096)
    ordinary[:] = 1
    assert gpu.memory.registration_of(ordinary.ctypes.data) is None
    held.pop()
    array = pool.take(1)
    assert gpu.memory.registration_of(array.ctypes.data) is not None
    assert len(gpu.memory.living("registered")) == MAX_POOLED_ARRAYS


def test_memory_that_the_driver_does_not_lock_is_ordinary(gpu: FakeGpu, pool: Any) -> None:
    gpu.refuse_registration = True
    array = pool.take(10)
    array[:] = 1
    assert gpu.memory.living("registered") == []


def test_pooled_arrays_outlive_the_pool(gpu: FakeGpu, pool: Any) -> None:
    first, second = pool.take(5000), pool.take(5000)
    first[:], second[:] = 1, 2
    pool.close()
    assert gpu.memory.living("registered") == []
    del second
    assert np.all(first == 1)
    third = pool.take(5000)  # a pool may be used again, with memory of its own
    third[:] = 3
    assert np.all(first == 1)


def test_arrays_are_taken_and_dropped_by_many_threads(device: Any, pool: Any, nervous: None) -> None:
    """No two that are alive share memory."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with device:
                for _ in range(50):
                    arrays = [pool.take(4096 * (1 + index % 2)) for index in range(3)]
                    for index, array in enumerate(arrays):
                        array[:] = 3 * number + index
                    for index, array in enumerate(arrays):
                        assert np.all(array == 3 * number + index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors

"""Device, buffers, staging memory and CUDA graphs: contexts pushed and popped, memory freed, errors as sentences."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dni_deploy.errors import EngineError, LimitError, UnavailableError
from tests.fakes.gpu import FakeGpu


def test_open_and_close(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device

    device = Device.open()
    assert (device.name, device.capability, device.architecture) == ("Fake H200", (9, 0), "sm_90")
    assert not gpu.has_context()
    with device:
        with device:
            assert gpu.has_context()
        assert gpu.has_context()
        assert device.query_free_bytes() > 0
    assert not gpu.has_context()
    device.close()
    device.close()
    assert (gpu.retained, gpu.released) == (1, 1)
    with pytest.raises(EngineError, match="was closed"), device:
        pass


def test_an_error_inside_leaves_no_context(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device

    device = Device.open()
    with pytest.raises(ZeroDivisionError), device:
        raise ZeroDivisionError
    assert not gpu.has_context()
    device.close()


def test_closed_by_another_thread_than_opened_it(gpu: FakeGpu) -> None:
    """pycuda releases a context that is not current only on the thread that retained it, and says nothing."""
    from engines.cuda.device import Device

    device = Device.open()
    thread = threading.Thread(target=device.close)
    thread.start()
    thread.join()
    assert gpu.released == 1


def test_two_devices_side_by_side(gpu: FakeGpu) -> None:
    """Two engines each open the GPU: one's end is not the other's."""
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer

    first, second = Device.open(), Device.open()
    with first, second:
        buffer = Buffer(second, 16)
    first.close()
    with second:
        buffer.zero()
        buffer.free()
    second.close()


def test_no_driver(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda import driver
    from engines.cuda.device import Device

    monkeypatch.setattr(driver, "load_driver_library", lambda: None)
    with pytest.raises(UnavailableError, match=r"^No GPU can be used: no NVIDIA driver"):
        Device.open()
    assert not gpu.initialized


@pytest.mark.parametrize("index", [1, 7])
def test_no_such_gpu(gpu: FakeGpu, index: int) -> None:
    from engines.cuda.device import Device

    with pytest.raises(UnavailableError, match=f"no GPU number {index}: the driver counts 1"):
        Device.open(index)


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


def test_a_graph_is_launched_again_and_again(gpu: FakeGpu) -> None:
    from engines.cuda import cuda_graph
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer

    device = Device.open()
    with device:
        buffer, stream = Buffer(device, 4), device.create_stream()
        buffer.upload(np.zeros(1, np.int32))
        cuda_graph.begin_capture(stream.handle)
        with pytest.raises(EngineError, match="already being captured"):
            cuda_graph.begin_capture(stream.handle)
        buffer.upload(np.int32([3]), stream)
        graph = cuda_graph.end_capture()
        back = np.empty(1, np.int32)
        buffer.download(back)
        assert back[0] == 0
        for _ in range(2):
            buffer.zero()
            graph.launch(stream.handle)
            buffer.download(back, stream)
            stream.synchronize()
            assert back[0] == 3
        graph.close()
        graph.close()
        with pytest.raises(EngineError, match="was closed"):
            graph.launch(stream.handle)
        buffer.free()
        del stream
    device.close()


def test_captures_that_fail(gpu: FakeGpu) -> None:
    from engines.cuda import cuda_graph
    from engines.cuda.device import Device

    device = Device.open()
    with device:
        stream = device.create_stream()
        with pytest.raises(EngineError, match="No CUDA graph of this stream"):
            cuda_graph.end_capture()
        with pytest.raises(EngineError, match="cuStreamBeginCapture_v2 failed with CUDA_ERROR"):
            cuda_graph.begin_capture(0)  # the default stream cannot be captured
        cuda_graph.begin_capture(stream.handle)
        cuda_graph.abort_capture()
        cuda_graph.abort_capture()
        cuda_graph.begin_capture(stream.handle)  # the stream can be captured again
        with pytest.raises(EngineError, match="No CUDA graph"):
            cuda_graph.end_capture(stream.handle + 1)
        cuda_graph.end_capture(stream.handle).close()
        del stream
    device.close()

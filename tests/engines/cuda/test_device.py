"""The device: contexts are pushed and popped whatever fails, and the primary one is retained once and stays."""

from __future__ import annotations

import threading

import pytest

from dni_deploy.errors import EngineError, UnavailableError
from tests.fakes.gpu import FakeGpu

BOTH_BACKENDS = True


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
    assert (gpu.retained, gpu.released) == (1, 0)
    with pytest.raises(EngineError, match="was closed"), device:
        pass


def test_an_error_inside_leaves_no_context(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device

    device = Device.open()
    with pytest.raises(ZeroDivisionError), device:
        raise ZeroDivisionError
    assert not gpu.has_context()
    device.close()


def test_the_context_is_retained_once_and_outlives_every_device(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device

    for _ in range(3):
        Device.open().close()
    assert (gpu.retained, gpu.released) == (1, 0)


def test_threads_that_open_at_once_share_one_context(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device

    opened: list[Device] = []
    threads = [threading.Thread(target=lambda: opened.append(Device.open())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for device in opened:
        device.close()
    assert len(opened) == 4
    assert (gpu.retained, gpu.released) == (1, 0)


def test_closed_by_another_thread_than_opened_it(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device

    device = Device.open()
    thread = threading.Thread(target=device.close)
    thread.start()
    thread.join()
    with pytest.raises(EngineError, match="was closed"), device:
        pass
    assert not gpu.has_context()


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

"""Frames in device memory: rendered where they are, in the order of other libraries' streams, and refused in a sentence."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, LimitError, MismatchError, UsageError
from dni_deploy.signature import Signature
from tests.engines.cuda.test_frame_buffers import SEEDS, SIZES, X2, Rig, reference, rig
from tests.engines.cuda.test_frame_kernels import DTYPES, make_frame
from tests.fakes.gpu import FakeGpu

BOTH_BACKENDS = True

__all__ = ["rig"]


class Tensor:
    """An array in device memory, as another library has it."""

    def __init__(self, address: int, array: NDArray[Any], **changes: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (address, True), "strides": None, "stream": None,
            "version": 3, **changes,
        }  # fmt: skip


@pytest.fixture
def upload(rig: Rig) -> Iterator[Any]:
    """Puts an array into device memory, complete, or with a stream on that."""
    from engines.cuda.memory import Buffer

    owned = ExitStack()

    def make(array: NDArray[Any], queue: Any = None, **changes: Any) -> Tensor:
        with rig.device:
            buffer = Buffer(rig.device, array.nbytes)
            owned.callback(buffer.free)
            buffer.upload(array, queue)
        return Tensor(buffer.pointer, array, **changes)

    yield make
    with rig.device:
        owned.close()


def download(rig: Any, frame: Any) -> NDArray[Any]:
    """What another library reads, which need not wait. rig: what has the device."""
    from engines.cuda import backend as cuda

    interface = frame.__cuda_array_interface__
    assert (interface["version"], interface["stream"], interface["strides"]) == (3, None, None)
    result = np.empty(interface["shape"], interface["typestr"])
    with rig.device:
        stream = rig.device.create_stream()
        cuda.memcpy_dtoh_async(result, interface["data"][0], stream)
        stream.synchronize()
        del stream
    return result


def assert_renders_on_device(engine: Any, frame: NDArray[Any], signature: Signature, expected: NDArray[Any]) -> None:
    """The engine's slot 0 renders the frame from device memory to device memory."""
    from engines.cuda.memory import Buffer

    rig = SimpleNamespace(device=engine._device)
    with rig.device:
        buffer = Buffer(rig.device, frame.nbytes)
        buffer.upload(frame)
    rendered = engine.render(0, Tensor(buffer.pointer, frame), signature)
    with rig.device:
        buffer.free()
    np.testing.assert_array_equal(download(rig, rendered), expected)


@SEEDS
@pytest.mark.parametrize("dtype", DTYPES)
def test_frames_are_those_of_the_reference(rig: Rig, upload: Any, dtype: Any) -> None:
    for signature in (X2, Signature(1, 1, scale=4, multiple=8), Signature(residual=True)):
        for size in SIZES:
            frame = make_frame(size, dtype)
            rendered = rig.render(upload(frame), signature)
            expected = reference(frame, signature)
            assert (rendered.shape, rendered.dtype) == (expected.shape, frame.dtype)
            np.testing.assert_array_equal(download(rig, rendered), expected)


def test_nothing_but_the_counter_crosses_the_bus(rig: Rig, upload: Any, gpu: FakeGpu) -> None:
    tensor = upload(make_frame((8, 8), np.uint8))
    gpu.transferred.clear()
    rendered = rig.render(tensor)
    assert gpu.transferred == {("to the host", "page-locked"): 4}
    assert rig.renderer._frame_buffers[0].device_input._buffer is None
    del rendered


@pytest.mark.parametrize("version", [2, 3])
def test_interfaces_with_strides_and_without(rig: Rig, upload: Any, version: int) -> None:
    frame = make_frame((5, 7), np.uint8)
    for strides in (None, (21, 3, 1)):
        tensor = upload(frame, version=version, strides=strides)
        np.testing.assert_array_equal(download(rig, rig.render(tensor)), reference(frame, X2))


@SEEDS
@pytest.mark.parametrize("default", [False, True])
def test_a_frame_of_another_stream_is_waited_for(rig: Rig, upload: Any, gpu: FakeGpu, default: bool) -> None:
    from engines.cuda import backend as cuda

    with rig.device:
        stream = rig.device.create_stream()
    for seed in range(6):
        frame = make_frame((5, 7), np.uint8, seed)
        tensor = upload(frame)
        with rig.device:  # the library writes it again
            late = np.ascontiguousarray(255 - frame)
            cuda.memcpy_htod_async(tensor.__cuda_array_interface__["data"][0], late, None if default else stream)
        tensor.__cuda_array_interface__["stream"] = 1 if default else stream.handle
        np.testing.assert_array_equal(download(rig, rig.render(tensor)), reference(late, X2))
    assert not gpu.events
    with rig.device:
        del stream


def test_a_stream_that_is_not_waited_for_is_seen(rig: Rig, upload: Any, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda import driver

    whole = driver.call_driver
    monkeypatch.setattr(driver, "call_driver", lambda name, *args: name == "cuStreamWaitEvent" or whole(name, *args))
    frame = make_frame((5, 7), np.uint8)
    with rig.device:
        stream = rig.device.create_stream()
    tensor = upload(frame, stream, stream=stream.handle)
    try:
        wrong = not np.array_equal(download(rig, rig.render(tensor)), reference(frame, X2))
    except EngineError:
        wrong = True
    gpu.scheduler.drain_all()
    with rig.device:
        del stream
    assert wrong


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 1}, "in version 2 or 3; got 1"),
        ({"typestr": "<f8"}, r"got float64 \(5, 7, 3\)"),
        ({"typestr": ">u2"}, r"got >u2 \(5, 7, 3\)"),
        ({"shape": (5, 21)}, r"is a uint8, uint16 or float32 array \(height, width, 3\), RGB; got uint8 \(5, 21\)"),
        ({"shape": (3, 5, 7)}, r"got uint8 \(3, 5, 7\)"),
        ({"shape": (0, 7, 3)}, r"got uint8 \(0, 7, 3\)"),
        ({"mask": object()}, "A frame on the GPU is a uint8"),
        ({"strides": (1, 5, 35)}, r"of strides \(21, 3, 1\) here; got \(1, 5, 35\)"),
        ({"strides": (24, 3, 1)}, "is contiguous"),
        ({"stream": 0}, "does not allow 0 as the stream"),
        ({"data": (0, False)}, "not in the memory of the GPU on which the engine is open"),
        ({"data": (np.zeros(1).ctypes.data, False)}, "not in the memory of the GPU"),
    ],
)
def test_what_is_no_frame_is_refused(rig: Rig, upload: Any, gpu: FakeGpu, changes: dict[str, Any], words: str) -> None:
    tensor = upload(make_frame((5, 7), np.uint8), **changes)
    gpu.transferred.clear()
    with pytest.raises(UsageError, match=words) as refusal:
        rig.render(tensor)  # type: ignore[arg-type]
    assert str(refusal.value).endswith(".")
    assert not gpu.transferred


def test_other_refusals(rig: Rig, upload: Any, gpu: FakeGpu) -> None:
    frame = make_frame((5, 7), np.float32)
    tensor = upload(frame)
    address = tensor.__cuda_array_interface__["data"][0]
    with pytest.raises(MismatchError):
        rig.render(tensor, Signature(1, 3))
    with pytest.raises(UsageError, match="not in the memory of the GPU"):
        rig.render(Tensor(address + 2, frame))  # type: ignore[arg-type]
    gpu.other_gpu.add(address)
    with pytest.raises(UsageError, match="not in the memory of the GPU"):
        rig.render(tensor)


def test_output_that_is_not_finite(rig: Rig, upload: Any) -> None:
    frame = make_frame((5, 7), np.float32)
    frame[0, 0, 0] = np.nan
    for _ in range(2):
        with pytest.raises(EngineError, match="holds 4 values of 420"):
            rig.render(upload(frame))


def test_memory_of_frames_is_used_again_and_freed_with_the_engine(rig: Rig, upload: Any, gpu: FakeGpu) -> None:
    frame = make_frame((5, 7), np.uint8)
    tensor = upload(frame)
    first, second = rig.render(tensor), rig.render(tensor)
    addresses = [one.__cuda_array_interface__["data"][0] for one in (first, second)]
    assert addresses[0] != addresses[1]
    del first
    gc.collect()
    third = rig.render(tensor)
    assert third.__cuda_array_interface__["data"][0] == addresses[0]
    np.testing.assert_array_equal(download(rig, second), reference(frame, X2))
    del second, third
    gc.collect()
    living = gpu.memory.used
    kept = rig.render(tensor, Signature(scale=4))  # of another size: the idle ones are freed
    assert gpu.memory.find(addresses[0]).freed  # type: ignore[union-attr]
    assert gpu.memory.find(addresses[1]).freed  # type: ignore[union-attr]
    assert gpu.memory.used > living - 2 * 424
    with rig.device:
        rig.renderer.close()
    with pytest.raises(EngineError, match=r"closed, and its memory freed\."):
        kept.__cuda_array_interface__  # noqa: B018


def test_no_room_for_a_frame(rig: Rig, upload: Any, gpu: FakeGpu) -> None:
    frame = make_frame((5, 7), np.uint8)
    tensor = upload(frame)
    rig.render(tensor)
    total, gpu.memory.total = gpu.memory.total, gpu.memory.used + 100
    with pytest.raises(LimitError, match="free where"):
        rig.render(tensor, Signature(scale=4))
    gpu.memory.total = total
    np.testing.assert_array_equal(download(rig, rig.render(tensor)), reference(frame, X2))

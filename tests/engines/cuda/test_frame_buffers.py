"""Frames through a network on the device: pixel for pixel the reference, in any order that streams allow, from any thread."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Queue
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, LimitError, MismatchError, UsageError
from dni_deploy.imaging import frames
from dni_deploy.signature import Signature
from tests.engines.cuda.test_frame_kernels import DTYPES, make_frame
from tests.fakes.gpu import FakeGpu
from tests.fakes.streams import Work

BOTH_BACKENDS = True

X2 = Signature(scale=2, multiple=4, low=-1.0)
SIZES = ((5, 7), (1, 1), (9, 3), (8, 8))


def network(x: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """What `FakeNetwork` computes."""
    return np.repeat(np.repeat(np.float32(0.75) * x, scale, 2), scale, 3)


def reference(frame: NDArray[Any], signature: Signature) -> NDArray[Any]:
    return frames.from_network(network(frames.to_network(frame, signature), signature.scale), frame, signature)


class FakeNetwork:
    """A slot with a stream of its own, whose runs are queued there. It is locked while frames are queued on it."""

    def __init__(self, gpu: FakeGpu, device: Any, scale: int) -> None:
        from engines.cuda.memory import GrowingBuffer

        self.gpu, self.scale = gpu, scale
        self.stream, self.lock, self.owner = device.create_stream(), threading.Lock(), 0
        self.input, self.output = GrowingBuffer(device), GrowingBuffer(device)
        self.shape: tuple[int, ...] = ()
        self.fails: Callable[[], object] = lambda: None
        self.runs = 0

    @contextmanager
    def locked(self) -> Iterator[FakeNetwork]:
        with self.lock:
            self.owner = threading.get_ident()
            try:
                yield self
            finally:
                self.owner = 0

    def prepare_input(self, shape: tuple[int, ...]) -> int:
        self.shape = shape
        for buffer, scale in ((self.input, 1), (self.output, self.scale)):
            nbytes = 4 * int(np.prod(shape)) * scale**2
            if buffer._buffer is not None and buffer._buffer.nbytes < nbytes:
                self.stream.synchronize()
            buffer.get_buffer(nbytes)
        return self.input.get_buffer(0).pointer

    def enqueue(self) -> None:
        self.fails()
        shape, scale = self.shape, self.scale
        source, target = self.input.get_buffer(0).pointer, self.output.get_buffer(0).pointer

        def run() -> None:
            x, y = (
                self.gpu.memory.view(at, 4 * int(np.prod(shape)) * by, "run") for at, by in ((source, 1), (target, scale**2))
            )
            if x is not None and y is not None:
                y.view(np.float32)[:] = network(x.view(np.float32).reshape(shape), scale).reshape(-1)
            self.runs += 1

        self.gpu.scheduler.add(self.gpu.scheduler.queues[self.stream.handle], Work("run", run))

    def get_output(self) -> tuple[tuple[int, ...], int]:
        count, channels, height, width = self.shape
        return (count, channels, self.scale * height, self.scale * width), self.output.get_buffer(0).pointer

    def free(self) -> None:
        self.input.free()
        self.output.free()
        self.stream = None


class Rig:
    """A renderer on a device that the test's threads enter themselves."""

    def __init__(self, gpu: FakeGpu) -> None:
        from engines.cuda.device import Device
        from engines.cuda.frame_buffers import FrameRenderer

        self.gpu, self.device = gpu, Device.open()
        with self.device:
            self.renderer = FrameRenderer(self.device)
        self.networks: dict[int, FakeNetwork] = {}

    def network(self, scale: int) -> FakeNetwork:
        if scale not in self.networks:
            with self.device:
                self.networks[scale] = FakeNetwork(self.gpu, self.device, scale)
        return self.networks[scale]

    def render(self, frame: NDArray[Any], signature: Signature = X2) -> NDArray[Any]:
        with self.device:
            return self.renderer.render(frame, signature, self.network(signature.scale).locked)  # type: ignore[no-any-return]

    def close(self) -> None:
        with self.device:
            for network in self.networks.values():
                network.free()
            self.renderer.close()
            self.renderer.close()
        self.device.close()


@pytest.fixture
def rig(gpu: FakeGpu) -> Iterator[Rig]:
    rig = Rig(gpu)
    yield rig
    gpu.scheduler.reseed(None)
    rig.close()


SEEDS = pytest.mark.parametrize("gpu", [{"tensorrt": None, "seed": seed} for seed in (None, 1, 2)], indirect=True)


@SEEDS
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_frames_are_those_of_the_reference(rig: Rig, dtype: Any, channels: int) -> None:
    for scale, low, multiple in ((1, 0.0, 1), (2, -1.0, 4), (4, 0.0, 8)):
        for signature in (Signature(channels, channels, scale, multiple, low), Signature(channels, channels, residual=True)):
            for size in SIZES:
                frame = make_frame(size, dtype)
                got = rig.render(frame, signature)
                assert got.dtype == frame.dtype
                np.testing.assert_array_equal(got, reference(frame, signature))


def test_frames_and_results_are_the_callers(rig: Rig) -> None:
    """A frame need not be contiguous, is read before the return and never changed; each result has memory of its own."""
    frame = make_frame((9, 14), np.uint8)[::-1, ::2]
    frame.flags.writeable = False
    expected = reference(frame, X2)
    first = rig.render(frame)
    second = rig.render(frame)
    first[:] = 0
    np.testing.assert_array_equal(second, expected)
    address = second.ctypes.data
    part = second[1:, :, 0]
    del second
    assert rig.render(frame).ctypes.data != address
    np.testing.assert_array_equal(part, expected[1:, :, 0])
    del part
    gc.collect()
    assert address in [result.ctypes.data for result in (rig.render(frame), rig.render(frame))]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_that_cross_the_bus(rig: Rig, gpu: FakeGpu, dtype: Any) -> None:
    """As many as the values have, and 4 for the counter, which is aligned; from and to page-locked memory."""
    frame = make_frame((7, 9), dtype)
    result = rig.render(frame)
    assert gpu.transferred == {
        ("to the device", "page-locked"): frame.nbytes,
        ("to the host", "page-locked"): -(-result.nbytes // 4) * 4 + 4,
    }


def test_frames_one_by_one_use_one_set_of_buffers(rig: Rig, gpu: FakeGpu) -> None:
    frame = make_frame((8, 8), np.uint8)
    rig.render(frame)
    living = len(gpu.memory.living())
    for _ in range(4):
        rig.render(frame)
    assert len(gpu.memory.living()) == living == 6  # the network's two, and a set: page-locked, two on the device, the result


def test_output_that_is_not_finite(rig: Rig) -> None:
    frame = np.zeros((5, 7, 3), np.float32)
    frame[0, 0, 1], frame[4, 6, 2] = np.nan, np.inf
    for _ in range(2):
        with pytest.raises(EngineError, match="holds 8 values of 420 that are NaN or infinite"):
            rig.render(frame)
    frame = make_frame((5, 7), np.float32)
    np.testing.assert_array_equal(rig.render(frame), reference(frame, X2))


def test_what_is_no_frame_is_refused_before_anything_is_queued(rig: Rig, gpu: FakeGpu) -> None:
    frame = make_frame((8, 8), np.uint8)
    for wrong in (frame[..., 0], frame.astype(np.float64), [1, 2], frame[:0]):
        with pytest.raises(UsageError, match="A frame is a uint8, uint16 or float32 array"):
            rig.render(wrong)  # type: ignore[arg-type]
    with pytest.raises(MismatchError):
        rig.render(frame, Signature(1, 3))
    assert not gpu.transferred


def test_an_output_of_another_shape(rig: Rig) -> None:
    frame = make_frame((8, 8), np.uint8)
    rig.network(2).scale = 3
    with pytest.raises(EngineError, match=r"an array of shape \(1, 3, 24, 24\) where \(1, 3, 16, 16\) was expected"):
        rig.render(frame)
    rig.network(2).scale = 2
    np.testing.assert_array_equal(rig.render(frame), reference(frame, X2))


@SEEDS
def test_a_network_that_fails_leaves_nothing_queued(rig: Rig, gpu: FakeGpu) -> None:
    """The buffers are free again for a larger frame, which replaces them."""

    def fail() -> None:
        raise EngineError("The network cannot be queued.")

    for side in range(1, 12):
        frame = make_frame((side, side), np.uint8)
        rig.network(2).fails = fail
        with pytest.raises(EngineError, match="cannot be queued"):
            rig.render(frame)
        rig.network(2).fails = lambda: None
        larger = make_frame((side + 1, side + 1), np.uint8)
        np.testing.assert_array_equal(rig.render(larger), reference(larger, X2))
    assert not gpu.violations


def test_memory_that_ends_at_every_step(rig: Rig, gpu: FakeGpu) -> None:
    """The frame is refused, and nothing stays behind: smaller ones go on."""
    small, large = make_frame((2, 2), np.uint8), make_frame((40, 40), np.uint8)
    rig.render(small)
    total, failures = gpu.memory.total, 0
    while True:
        gpu.memory.total = gpu.memory.used + 4096 * failures
        try:
            result = rig.render(large)
        except LimitError:
            failures += 1
            gpu.memory.total = total
            np.testing.assert_array_equal(rig.render(small), reference(small, X2))
        else:
            break
        finally:
            gpu.memory.total = total
    np.testing.assert_array_equal(result, reference(large, X2))
    assert failures > 4


def test_a_driver_that_locks_no_more_memory(rig: Rig, gpu: FakeGpu) -> None:
    gpu.refuse_registration = True
    frame = make_frame((5, 7), np.uint8)
    np.testing.assert_array_equal(rig.render(frame), reference(frame, X2))
    assert ("to the host", "pageable") in gpu.transferred


def test_results_outlive_the_renderer(gpu: FakeGpu) -> None:
    rig = Rig(gpu)
    frame = make_frame((5, 7), np.uint8)
    kept = rig.render(frame)
    rig.close()
    assert gpu.leaks() == []
    np.testing.assert_array_equal(kept, reference(frame, X2))
    kept[:] = 1


def test_closing_goes_on_where_a_part_fails(rig: Rig, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that has failed fails at every step: what can be freed is."""
    from engines.cuda import backend as cuda

    rig.render(make_frame((5, 7), np.uint8))

    def fail() -> None:
        raise cuda.Error("cuMemFree failed: an illegal memory access was encountered")

    with monkeypatch.context() as patch, rig.device:
        patch.setattr(rig.renderer._frame_buffers[0], "free", fail)
        patch.setattr(rig.renderer._device_frames, "close", fail)
        with pytest.raises(cuda.Error):
            rig.renderer.close()
    assert gpu.memory.living("registered") == []
    assert rig.renderer._frame_buffers[1].downloaded_event is None


# Overlap.


@pytest.fixture
def queued(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Three frames that are queued while nothing has run yet, because nobody waits; gives their buffers in this order."""
    from engines.cuda import backend as cuda

    idle: Queue[Any] = Queue()  # first in, first out: each frame has other buffers
    buffers = list(rig.renderer._frame_buffers)
    for one in buffers:
        idle.put(one)
    rig.renderer._idle = idle  # type: ignore[assignment]
    with monkeypatch.context() as patch:
        patch.setattr(cuda.Event, "synchronize", lambda event: event)
        for seed in range(3):
            with suppress(EngineError):  # what is in a result that nobody waited for is chance
                rig.render(make_frame((8, 8), np.uint8, seed))
    yield buffers
    rig.gpu.scheduler.drain_all()


def test_uploads_wait_for_no_network(rig: Rig, queued: list[Any], gpu: FakeGpu) -> None:
    with rig.device:
        rig.renderer._upload_stream.synchronize()
    for seed, buffers in enumerate(queued):
        uploaded = gpu.memory.view(buffers.device_input.get_buffer(0).pointer, 192, "test")
        np.testing.assert_array_equal(uploaded, make_frame((8, 8), np.uint8, seed).reshape(-1))
    assert rig.network(2).runs == 0


def test_a_download_waits_for_its_own_network_alone(rig: Rig, queued: list[Any]) -> None:
    with rig.device:
        for count, buffers in enumerate(queued, 1):
            buffers.downloaded_event.synchronize()
            assert rig.network(2).runs == count


def test_nothing_is_waited_for_while_the_slot_is_locked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda import backend as cuda

    frame = make_frame((8, 8), np.uint8)
    rig.render(frame)
    waits: list[bool] = []
    for owner in (cuda.Event, cuda.Stream):

        def synchronize(self: Any, whole: Any = owner.synchronize) -> Any:
            waits.append(rig.network(2).owner == threading.get_ident())
            return whole(self)

        monkeypatch.setattr(owner, "synchronize", synchronize)
    rig.render(frame)
    assert waits == [False]


def render_from_threads(rig: Rig, count: int = 4, each: int = 12) -> list[BaseException]:
    """Frames of many sizes and dtypes from several threads, each held against the reference."""
    errors: list[BaseException] = []
    rig.network(2)  # made before the threads begin

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        try:
            for index in range(each):
                frame = make_frame(SIZES[random.integers(len(SIZES))], DTYPES[random.integers(3)], 100 * number + index)
                np.testing.assert_array_equal(rig.render(frame), reference(frame, X2))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return errors


@SEEDS
def test_frames_of_several_threads(rig: Rig, gpu: FakeGpu, nervous: None) -> None:
    for seed in (None, 0, 1, 2):
        gpu.scheduler.reseed(seed)
        assert render_from_threads(rig) == []
    assert not gpu.violations


# Each order that was taken away must be caught.


def caught(rig: Rig) -> bool:
    for seed in (None, *range(40)):
        rig.gpu.scheduler.reseed(seed)
        for size in SIZES:
            frame = make_frame(size, np.uint8, seed or 0)
            try:
                if not np.array_equal(rig.render(frame), reference(frame, X2)):
                    return True
            except EngineError:  # of a counter that nobody waited for
                return True
        if rig.gpu.violations:
            return True
    return False


def end(rig: Rig) -> None:
    rig.gpu.scheduler.reseed(None)
    rig.gpu.scheduler.drain_all()
    rig.gpu.violations.clear()


def test_nothing_is_caught_in_the_renderer_as_it_is(rig: Rig) -> None:
    assert not caught(rig)


@pytest.mark.parametrize("event", ["uploaded", "computed"])
def test_a_stream_that_does_not_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch, event: str) -> None:
    from engines.cuda import backend as cuda

    skipped = [getattr(buffers, f"{event}_event") for buffers in rig.renderer._frame_buffers]
    whole = cuda.Stream.wait_for_event
    monkeypatch.setattr(cuda.Stream, "wait_for_event", lambda stream, event: None if event in skipped else whole(stream, event))
    assert caught(rig)
    end(rig)


def test_a_host_that_does_not_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda import backend as cuda

    monkeypatch.setattr(cuda.Event, "synchronize", lambda event: event)
    assert caught(rig)
    end(rig)


def test_a_failure_that_is_not_waited_for(rig: Rig, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the record of what a failed frame queued, a larger frame frees memory that is in use."""
    from engines.cuda import backend as cuda

    whole = cuda.Event.record
    slot = rig.network(2).stream
    downloaded = [buffers.downloaded_event for buffers in rig.renderer._frame_buffers]
    monkeypatch.setattr(
        cuda.Event, "record", lambda event, stream: event if event in downloaded and stream is slot else whole(event, stream)
    )
    small, large = make_frame((3, 3), np.uint8), make_frame((9, 9), np.uint8)
    with rig.device:
        rig.network(2).prepare_input((1, 3, 12, 12))  # the network's own memory does not have to grow, which would wait
    rig.render(small)

    def fail() -> None:
        raise EngineError("The network cannot be queued.")

    rig.network(2).fails = fail
    with pytest.raises(EngineError):
        rig.render(small)
    with pytest.raises(EngineError):
        rig.render(large)
    gpu.scheduler.drain_all()
    assert any("after it was freed" in sentence for sentence in gpu.violations)
    gpu.violations.clear()

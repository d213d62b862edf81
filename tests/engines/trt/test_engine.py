"""The running engine on the fake TensorRT of each version: slots, refits, frames, failures, threads and closing."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UsageError
from dni_deploy.utils.compare_arrays import relative_error
from engines.interface import EngineOptions
from engines.registry import load_engine
from tests.engines.cuda.test_device_frame import assert_renders_on_device
from tests.engines.cuda.test_frame_kernels import make_frame
from tests.engines.trt.conftest import build, engine_name, everywhere, opened, picture, truth
from tests.fakes.gpu import FakeGpu

BOTH_BACKENDS = {"test_slots_keep_their_own_weights", "test_slots_work_from_several_threads", "test_frames_in_device_memory"}


@everywhere
def test_slots_keep_their_own_weights(bundle: Bundle, gpu: FakeGpu) -> None:
    """Each has its own weights, on its own stream, whatever the other one does."""
    build(bundle)
    with opened(bundle, slots=2) as engine:
        assert engine.stream_handle(0) != engine.stream_handle(1)
        x, y = picture(0), picture(1, 8, 24)
        first, second = np.array([1.0, 0, 0]), np.array([0, 0.5, 0.5])
        engine.refit(0, first)
        engine.upload(0, x)
        engine.enqueue(0)
        engine.refit(1, second)  # while slot 0 runs
        engine.upload(1, y)
        engine.enqueue(1)
        assert relative_error(engine.download(0), truth(bundle, first, x)) <= 1e-5
        assert relative_error(engine.download(1), truth(bundle, second, y)) <= 1e-5
        engine.refit(0, second)
        engine.synchronize(0)
        assert relative_error(engine.infer(1, x), truth(bundle, second, x)) <= 1e-5


@everywhere
def test_the_same_alpha_gives_the_same_bits_again(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        x, outputs = picture(), []
        for shares in ([1, 0, 0], [0.2, 0.3, 0.5], [1, 0, 0], [0.2, 0.3, 0.5]):
            engine.refit(0, np.array(shares, np.float64))
            outputs.append(engine.infer(0, x))
        assert np.array_equal(outputs[0], outputs[2])
        assert np.array_equal(outputs[1], outputs[3])
        assert not np.array_equal(outputs[0], outputs[1])


@everywhere
def test_a_slot_must_be_refitted_before_its_first_frame(bundle: Bundle, gpu: FakeGpu) -> None:
    """Those that the verification left in it are nobody's."""
    build(bundle)
    with opened(bundle, slots=2) as engine:
        for slot in range(2):
            with pytest.raises(EngineError, match="no weights yet"):
                engine.infer(slot, picture())


@everywhere
def test_a_failed_refit_makes_its_slot_alone_unusable(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle, slots=2) as engine:
        x, shares = picture(), np.array([0.5, 0.25, 0.25])
        engine.refit(0, np.array([1.0, 0, 0]))
        engine.refit(1, shares)
        gpu.trt.fail = {"refit": 1}  # one weight is changed, then False
        with pytest.raises(EngineError, match="could not refit"):
            engine.refit(0, shares)
        for _ in range(2):
            with pytest.raises(EngineError, match="last refit failed"):
                engine.infer(0, x)
        assert relative_error(engine.infer(1, x), truth(bundle, shares, x)) <= 1e-5
        engine.refit(0, shares)
        assert np.array_equal(engine.infer(0, x), engine.infer(1, x))


@pytest.mark.parametrize("gpu", ["8.6"], indirect=True)
def test_a_refused_weight_makes_the_slot_unusable(bundle: Bundle, gpu: FakeGpu) -> None:
    """8.6 is given every weight at every refit."""
    build(bundle)
    with opened(bundle) as engine:
        gpu.trt.fail = {"set": 2}
        with pytest.raises(EngineError, match="could not take the weight"):
            engine.refit(0, np.array([1.0, 0, 0]))
        with pytest.raises(EngineError, match="last refit failed"):
            engine.infer(0, picture())
        engine.refit(0, np.array([1.0, 0, 0]))
        assert relative_error(engine.infer(0, picture()), truth(bundle, [1, 0, 0], picture())) <= 1e-5


@everywhere
def test_a_refused_alpha_leaves_the_slot_as_it_was(bundle: Bundle, gpu: FakeGpu) -> None:
    """Far enough outside 0 to 1, a BatchNorm's blended variance is not positive."""
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        before = engine.infer(0, picture())
        with pytest.raises(EngineError, match="variance"):
            engine.refit(0, np.array([40.0, -39.0, 0]))
        assert np.array_equal(engine.infer(0, picture()), before)


@everywhere
def test_a_failed_blend_makes_the_slot_unusable(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver refuses a launch, those before it are queued."""
    from engines.cuda.blender import DeviceBlender

    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        with monkeypatch.context() as patched:
            patched.setattr(
                DeviceBlender, "enqueue_blend", lambda *_: (_ for _ in ()).throw(EngineError("The blend could not be queued."))
            )
            with pytest.raises(EngineError, match="could not be queued"):
                engine.refit(0, np.array([0, 1.0, 0]))
        with pytest.raises(EngineError, match="last refit failed"):
            engine.infer(0, picture())
        engine.refit(0, np.array([0, 1.0, 0]))
        engine.infer(0, picture())


@everywhere
def test_a_failed_run_is_an_error_and_the_next_one_works(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        gpu.trt.fail = {"execute": 0}
        with pytest.raises(EngineError, match="could not queue the network"):
            engine.infer(0, picture())
        assert relative_error(engine.infer(0, picture()), truth(bundle, [1, 0, 0], picture())) <= 1e-5


@everywhere
@pytest.mark.parametrize("shape", [(1, 3, 32, 16), (1, 3, 4, 16), (2, 3, 16, 16)])
def test_frames_outside_the_profile(shape: tuple[int, ...], bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        with pytest.raises(UsageError, match="min 1x3x8x8, opt 1x3x16x16, max 1x3x24x24; got") as refusal:
            engine.infer(0, np.zeros(shape, np.float32))
        assert "--tile" in str(refusal.value)
        engine.infer(0, picture())


@everywhere
def test_frames_of_changing_shape(bundle: Bundle, gpu: FakeGpu) -> None:
    """Buffers grow and are kept; each output has its own frame's shape."""
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([0.5, 0.25, 0.25]))
        for height, width in ((8, 8), (24, 24), (9, 21), (24, 24), (8, 24)):
            x = picture(height, height, width)
            assert relative_error(engine.infer(0, x), truth(bundle, [0.5, 0.25, 0.25], x)) <= 1e-5


@everywhere
def test_outputs_belong_to_the_caller(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        x = picture()
        first = engine.infer(0, x)
        kept = first.copy()
        engine.infer(0, picture(5))
        assert np.array_equal(first, kept)
        x[:] = 0  # what was placed was read


@everywhere
def test_the_last_upload_counts_and_none_is_an_error(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        with pytest.raises(EngineError, match="No input was uploaded"):
            engine.enqueue(0)
        x, y = picture(0), picture(1)
        engine.upload(0, x)
        engine.upload(0, y)
        engine.enqueue(0)
        assert relative_error(engine.download(0), truth(bundle, [1, 0, 0], y)) <= 1e-5


@everywhere
def test_calls_on_a_closed_engine_are_refused(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    engine = load_engine(bundle, engine_name(), EngineOptions())
    engine.close()
    engine.close()
    for call in (
        lambda: engine.refit(0, np.array([1.0, 0, 0])),
        lambda: engine.infer(0, picture()),
        lambda: engine.synchronize(0),
    ):
        with pytest.raises(EngineError, match="closed"):
            call()


@everywhere
def test_slots_work_from_several_threads(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle, slots=2) as engine:
        x, got = picture(), {}

        def work(slot: int) -> None:
            for step in range(6):
                shares = np.roll(np.array([1.0, 0, 0]), slot + step)
                engine.refit(slot, shares)
                got[slot, step] = (shares, engine.infer(slot, x))

        threads = [threading.Thread(target=work, args=(slot,)) for slot in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 12
        for shares, output in got.values():
            assert relative_error(output, truth(bundle, shares, x)) <= 1e-5


@everywhere
def test_frames_in_device_memory(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    frame = make_frame((12, 20), np.uint8)
    with opened(bundle) as engine:
        engine.refit(0, np.array([0.2, 0.3, 0.5]))
        expected = engine.render(0, frame, bundle.signature)
        assert_renders_on_device(engine, frame, bundle.signature, expected)


@pytest.mark.parametrize("gpu", ["11.4"], indirect=True)
def test_a_frame_outside_of_the_profile(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([0.2, 0.3, 0.5]))
        with pytest.raises(UsageError, match="got 1x3x25x8"):
            engine.render(0, make_frame((25, 8), np.uint8), bundle.signature)
        assert engine.render(0, make_frame((24, 8), np.uint8), bundle.signature).shape == (24, 8, 3)


@pytest.mark.parametrize("gpu", ["11.4"], indirect=True)
def test_an_error_of_the_gpu_in_a_frame_makes_the_slot_unusable(
    bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines.cuda import backend as cuda

    def fail(event: object) -> None:
        raise cuda.Error("cuEventSynchronize failed: an illegal memory access was encountered")

    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([0.2, 0.3, 0.5]))
        frame = make_frame((12, 20), np.uint8)
        with monkeypatch.context() as patch:
            patch.setattr(cuda.Event, "synchronize", fail)
            with pytest.raises(EngineError, match="The GPU failed: cuEventSynchronize failed"):
                engine.render(0, frame, bundle.signature)
        with pytest.raises(EngineError, match="the GPU failed"):
            engine.render(0, frame, bundle.signature)
        gpu.scheduler.drain_all()

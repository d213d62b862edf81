"""The same engine when nothing runs before it has to: uploads, blends and runs wait in the stream, as they may on a GPU.

Whatever is read too early, or overwritten while something queued still needs it, gives another output.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from dni_deploy.errors import EngineError
from dni_deploy.imaging import frames
from tests.engines.conftest import Case
from tests.engines.onnxruntime_gpu.test_engine import expected, make
from tests.fakes.gpu import FakeGpu
from tests.fakes.streams import Work

BOTH_BACKENDS = True

TOLERANCE = 1e-5
"""Of the output's range; a late or early read is off by 1e-2 and more."""

pytestmark = pytest.mark.parametrize("gpu", [{"tensorrt": None, "seed": seed} for seed in (None, 1, 2)], indirect=True)


@pytest.fixture
def engine(gpu: FakeGpu, pico_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """ONNX Runtime's CPU provider runs at once; here its runs are queued on the engine's stream, as the CUDA provider's are.

    A run that is queued has what was bound at the call, whatever is bound after it.
    """
    bound: dict[int, dict[str, tuple[str, tuple[Any, ...]]]] = defaultdict(dict)
    for method in ("bind_input", "bind_output"):
        original = getattr(ort.IOBinding, method)

        def bind(binding: ort.IOBinding, name: str, *args: Any, method: str = method, whole: Any = original) -> None:
            bound[id(binding)][name] = (method, args)
            whole(binding, name, *args)

        monkeypatch.setattr(ort.IOBinding, method, bind)
    engine = make(pico_case("compact"), slots=2)
    run = ort.InferenceSession.run_with_iobinding
    queue = gpu.queue_of(engine.stream_handle(0), "run")
    assert queue is not None

    def queued(session: ort.InferenceSession, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        calls = bound[id(binding)]
        if all(
            len(args) > 2 for _, args in calls.values()
        ):  # else ONNX Runtime allocates the output, and the run is waited for
            binding = session.io_binding()
            for name, (method, args) in calls.items():
                getattr(binding, method)(name, *args)
        gpu.scheduler.add(queue, Work("run", lambda: run(session, binding, options)))

    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", queued)
    yield engine
    engine.close()


@pytest.fixture
def case(pico_case: Callable[[str], Case]) -> Case:
    return pico_case("compact")


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(got - wanted).max() <= TOLERANCE * np.ptp(wanted))


def test_frames_and_changes_are_queued_without_a_wait(engine: Any, case: Case) -> None:
    """Each frame has the weights of the last change before it, though none of them waited."""
    first, second = case.inputs()[0], case.inputs(7)[0]
    for a, b in (([0.2, 0.3, 0.5], [0.0, 1.0, 0.0]), ([0.5, 0.5, 0.0], [1.0, 0.0, 0.0])):
        engine.refit(0, np.array(a))
        engine.upload(0, first)
        engine.enqueue(0)
        engine.refit(1, np.array(b))
        engine.upload(1, second)
        engine.enqueue(1)
        got = engine.download(0), engine.download(1)
        assert close(got[0], expected(case, a, first))
        assert close(got[1], expected(case, b, second))


def test_a_frame_that_is_uploaded_over_another_waits_for_its_upload(engine: Any, case: Case) -> None:
    first, second = case.inputs()[0], case.inputs(7)[0]
    engine.refit(0, np.array([0.2, 0.3, 0.5]))
    engine.infer(0, second)
    engine.upload(0, first)
    engine.enqueue(0)
    wanted = engine.download(0)
    engine.upload(0, second)
    engine.upload(0, first)
    engine.enqueue(0)
    engine.upload(0, second)  # the run is queued behind the first upload and before the second
    np.testing.assert_array_equal(engine.download(0), wanted)


def test_a_larger_frame_waits_before_it_frees_what_is_in_use(engine: Any, case: Case) -> None:
    small, large = sorted(case.inputs(), key=lambda x: x.nbytes)
    engine.refit(0, np.array([0.2, 0.3, 0.5]))
    assert close(engine.infer(0, small), expected(case, [0.2, 0.3, 0.5], small))
    engine.upload(0, small)
    engine.enqueue(0)
    engine.upload(0, large)
    engine.enqueue(0)
    assert close(engine.download(0), expected(case, [0.2, 0.3, 0.5], large))


def test_synchronize_waits_for_the_blend_alone(engine: Any, case: Case, gpu: FakeGpu) -> None:
    x = case.inputs()[0]
    engine.refit(0, np.array([1.0, 0.0, 0.0]))
    engine.infer(0, x)
    launched = sum(gpu.launches.values())
    engine.refit(0, np.array([0.0, 0.0, 1.0]))
    assert sum(gpu.launches.values()) == launched + 1
    engine.synchronize(0)
    assert close(engine.infer(0, x), expected(case, [0.0, 0.0, 1.0], x))


@pytest.mark.parametrize("waits", ["upload", "download"])
def test_a_wait_that_is_missing_is_seen(engine: Any, case: Case, monkeypatch: pytest.MonkeyPatch, waits: str) -> None:
    """The tests above can fail: without the wait for the last upload, or for the download, pictures are wrong."""

    class Hasty:
        def record(self, stream: Any) -> None: ...

        def synchronize(self) -> None: ...

    first, second = case.inputs()[0], case.inputs(7)[0]
    engine.refit(0, np.array([0.2, 0.3, 0.5]))
    wanted, other = engine.infer(0, first), engine.infer(0, second)
    monkeypatch.setattr(engine._buffer_sets[0], f"_{waits}ed_event", Hasty())
    wrong = False
    for _ in range(20):
        engine.upload(0, first)
        engine.enqueue(0)
        if waits == "upload":
            engine.upload(0, second)
            wrong = wrong or not np.array_equal(engine.download(0), wanted)
        else:
            wrong = wrong or not np.array_equal(engine.download(0), wanted)
            engine.upload(0, second)
            engine.enqueue(0)
            wrong = wrong or not np.array_equal(engine.download(0), other)
    engine.close()
    assert wrong


# Frames: the pixels have streams of their own.


def make_frame(seed: int, dtype: Any = np.uint8) -> np.ndarray:
    random = np.random.default_rng(seed)
    size = (9 + 4 * (seed % 2), 7 + seed % 3, 3)
    return random.random(size, np.float32) if dtype == np.float32 else random.integers(0, 256, size, dtype)


def reference(engine: Any, slot: int, frame: np.ndarray, case: Case) -> np.ndarray:
    return frames.from_network(engine.infer(slot, frames.to_network(frame, case.signature)), frame, case.signature)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_render_is_the_reference_around_infer(engine: Any, case: Case, dtype: Any) -> None:
    for slot, shares in enumerate(([0.2, 0.3, 0.5], [0.0, 1.0, 0.0])):
        engine.refit(slot, np.array(shares))
    for seed in range(8):
        frame = make_frame(seed, dtype)
        got = engine.render(seed % 2, frame, case.signature)
        np.testing.assert_array_equal(got, reference(engine, seed % 2, frame, case))


def test_frames_and_changes_are_in_the_order_of_the_calls(engine: Any, case: Case) -> None:
    frame = make_frame(0)
    wanted = {}
    for share in (0.0, 0.5, 1.0, 0.5):
        engine.refit(0, np.array([1 - share, share, 0.0]))
        got = engine.render(0, frame, case.signature)
        np.testing.assert_array_equal(wanted.setdefault(share, got), got)
    assert len({got.tobytes() for got in wanted.values()}) == 3


def test_frames_of_several_threads(engine: Any, case: Case, nervous: None) -> None:
    for slot, shares in enumerate(([0.2, 0.3, 0.5], [0.0, 1.0, 0.0])):
        engine.refit(slot, np.array(shares))
    wanted = [reference(engine, seed % 2, make_frame(seed), case) for seed in range(6)]
    errors: list[BaseException] = []

    def drive(number: int) -> None:
        try:
            for seed in [(number + step) % 6 for step in range(12)]:
                got = engine.render(seed % 2, make_frame(seed), case.signature)
                np.testing.assert_array_equal(got, wanted[seed])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=drive, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not errors, errors


@pytest.mark.parametrize("event", ["uploaded", "computed", "downloaded"])
def test_an_order_of_frames_that_is_missing_is_seen(engine: Any, case: Case, gpu: FakeGpu, event: str) -> None:
    from engines.cuda import backend as cuda

    class Unheard(cuda.Event):  # type: ignore[misc]
        def record(self, stream: Any = None) -> Any:
            return self

    engine.refit(0, np.array([0.2, 0.3, 0.5]))
    wanted = [reference(engine, 0, make_frame(seed), case) for seed in range(6)]
    with engine._device_context():
        for buffers in engine._frame_renderer._frame_buffers:
            setattr(buffers, f"{event}_event", Unheard())
    wrong = False
    for seed in range(6):
        try:
            wrong = wrong or not np.array_equal(engine.render(0, make_frame(seed), case.signature), wanted[seed])
        except EngineError:  # of a counter that nobody waited for
            wrong = True
    gpu.scheduler.reseed(None)
    gpu.scheduler.drain_all()
    engine.close()
    assert wrong or gpu.violations
    gpu.violations.clear()

"""The same engine when nothing runs before it has to: uploads, blends and runs wait in the stream, as they may on a GPU.

Whatever is read too early, or overwritten while something queued still needs it, gives another output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.engines.conftest import Case
from tests.engines.onnxruntime_gpu.test_engine import expected, make
from tests.fakes.gpu import FakeGpu
from tests.fakes.streams import Work

TOLERANCE = 1e-5
"""Of the output's range; a late or early read is off by 1e-2 and more."""

pytestmark = pytest.mark.parametrize("gpu", [{"tensorrt": None, "seed": seed} for seed in (None, 1, 2)], indirect=True)


@pytest.fixture
def engine(gpu: FakeGpu, pico_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """ONNX Runtime's CPU provider runs at once; here its runs are queued on the engine's stream, as the CUDA provider's are."""
    engine = make(pico_case("compact"), slots=2)
    run = ort.InferenceSession.run_with_iobinding

    def queued(session: ort.InferenceSession, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        queue = gpu.queue_of(engine.stream_handle(0), "run")
        assert queue is not None
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

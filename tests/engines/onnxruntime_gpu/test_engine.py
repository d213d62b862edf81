"""ONNX Runtime on the GPU, without one: the same engine over a fake GPU's memory, run by ONNX Runtime's CPU provider.

The blend kernel is the real one, compiled for the host, and the weights that ONNX Runtime reads lie where it writes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import EngineError, LimitError, UnavailableError
from engines import ort_session
from engines.interface import EngineOptions
from engines.lowering.gpu import lower_for_gpu
from tests.engines.conftest import Case
from tests.engines.cuda.test_device_frame import assert_renders_on_device
from tests.engines.cuda.test_frame_kernels import make_frame
from tests.engines.cuda.test_per_tensor_blend import blended, some_rows
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import Hand

TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}
"""Of the output's range; see test_gpu_lowering.py. The kernel's float32 blend adds a rounding per weight."""
NAMES = ("compact", "dncnn_bn", "transformer_net", "rrdbnet_x2", "dcgan", "cyclegan_bn", "conv_bn", "bn_first")
SHARES = ([0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.0, 0.6, 0.4])

pytestmark = pytest.mark.parametrize("gpu", [{"tensorrt": None, "eager": True}], indirect=True)


def make(case: Case, precision: str = "fp32", *, provider: str = "CPUExecutionProvider", **options: Any) -> Any:
    from engines.onnxruntime_gpu.engine import BoundEngine

    lowered = lower_for_gpu(case.graph, case.weights, precision)
    chosen = EngineOptions(threads=1, precision=precision, **options)
    members = [
        {name: tensors[name] for name in case.weights} for tensors in case.members
    ]  # in their order, as a bundle has them
    return BoundEngine(lowered, members, chosen, provider=provider, device_type="cpu")


@pytest.fixture
def engine(gpu: FakeGpu, case: Case) -> Iterator[Any]:
    engine = make(case, slots=2)
    yield engine
    engine.close()


def expected(case: Case, shares: list[float], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bundle's own graph with float64-blended weights, by a stock session."""
    return ort_session.run_session(
        ort_session.open_cpu_session(
            ort_session.bind_initializers(case.graph, blend_float64(case.members, np.array(shares))), 1
        ),
        x,
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_it_computes_the_blend(gpu: FakeGpu, case: Case, precision: str) -> None:
    engine = make(case, precision, slots=2)
    try:
        for slot, shares in enumerate(SHARES):
            engine.refit(slot % 2, np.array(shares))
            engine.synchronize(slot % 2)
            for x in case.inputs():
                wanted, got = expected(case, shares, x), engine.infer(slot % 2, x)
                assert got.dtype == np.float32
                assert got.shape == wanted.shape
                assert np.abs(got - wanted).max() <= TOLERANCE[precision] * np.ptp(wanted)
    finally:
        engine.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_it_computes_the_blend_of_each_weight(gpu: FakeGpu, case: Case, precision: str) -> None:
    engine = make(case, precision, slots=2)
    try:
        for slot in range(2):
            rows = some_rows(len(case.weights), 3, slot)
            engine.refit(slot, rows)
            members = [{name: tensors[name] for name in case.weights} for tensors in case.members]
            session = ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, blended(members, rows)), 1)
            for x in case.inputs():
                wanted, got = ort_session.run_session(session, x), engine.infer(slot, x)
                assert np.abs(got - wanted).max() <= TOLERANCE[precision] * np.ptp(wanted)
    finally:
        engine.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", ["compact", "dncnn_bn"], indirect=True)
def test_members_in_float16(gpu: FakeGpu, case: Case, precision: str) -> None:
    halves = [{name: value.astype(np.float16) for name, value in tensors.items()} for tensors in case.members]
    case = replace(case, members=halves)
    engine = make(case, precision)
    try:
        engine.refit(0, np.array([0.5, 0.2, 0.3]))
        for x in case.inputs():
            wanted = expected(case, [0.5, 0.2, 0.3], x)
            assert np.abs(engine.infer(0, x) - wanted).max() <= TOLERANCE[precision] * np.ptp(wanted)
    finally:
        engine.close()


def test_slots_are_apart_and_come_back(engine: Any, case: Case) -> None:
    x = case.inputs()[0]
    a, b = np.array([0.25, 0.25, 0.5]), np.array([0.5, 0.5, 0.0])
    engine.refit(0, a)
    with pytest.raises(EngineError, match="Slot 1"):
        engine.infer(1, x)
    first = engine.infer(0, x)
    engine.refit(1, b)
    np.testing.assert_array_equal(engine.infer(0, x), first)
    assert not np.array_equal(engine.infer(1, x), first)
    for shares in (b, a):
        engine.refit(0, shares)
    np.testing.assert_array_equal(engine.infer(0, x), first)


def test_a_change_needs_no_new_binding(engine: Any, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first frame of a shape, neither a change nor a frame binds anything."""
    x = case.inputs()[0]
    engine.refit(0, np.array([1.0, 0.0, 0.0]))
    before = engine.infer(0, x)
    for method in ("bind_input", "bind_output", "clear_binding_inputs", "clear_binding_outputs"):
        monkeypatch.setattr(ort.IOBinding, method, lambda *_, **__: pytest.fail("bound again"))
    engine.refit(0, np.array([0.0, 0.0, 1.0]))
    after = engine.infer(0, x)
    wanted = expected(case, [0.0, 0.0, 1.0], x)
    assert not np.array_equal(after, before)
    assert np.abs(after - wanted).max() <= TOLERANCE["fp32"] * np.ptp(wanted)


def test_upload_enqueue_and_download_are_infer(engine: Any, case: Case) -> None:
    x, y = case.inputs()
    engine.refit(1, np.array([0.5, 0.2, 0.3]))
    wanted = engine.infer(1, x)
    larger = engine.infer(1, y)
    engine.upload(1, x)
    x_before = x.copy()
    x[:] = 0  # it was read
    engine.enqueue(1)
    first = engine.download(1)
    np.testing.assert_array_equal(first, wanted)
    np.testing.assert_array_equal(engine.download(1), wanted)
    engine.upload(1, y)
    engine.enqueue(1)
    np.testing.assert_array_equal(engine.download(1), larger)
    np.testing.assert_array_equal(first, wanted)  # a fresh array
    np.testing.assert_array_equal(engine.infer(1, x_before), wanted)
    assert engine.stream_handle(0) == engine.stream_handle(1) != 0


def test_calls_in_the_wrong_order_are_told(engine: Any, case: Case) -> None:
    engine.refit(0, np.array([1.0, 0.0, 0.0]))
    with pytest.raises(EngineError, match="upload one first"):
        engine.enqueue(0)
    with pytest.raises(EngineError, match="Nothing was run"):
        engine.download(0)


def test_an_input_that_does_not_fit_is_told_and_the_next_one_runs(engine: Any, case: Case) -> None:
    x = case.inputs()[0]
    engine.refit(0, np.array([1.0, 0.0, 0.0]))
    wanted = engine.infer(0, x)
    for wrong in ((1, 7, 8, 8), (3, 8)):
        with pytest.raises(EngineError, match="could not run an input of shape"):
            engine.infer(0, np.zeros(wrong, np.float32))
        with pytest.raises(EngineError, match="Nothing was run"):
            engine.download(0)
    np.testing.assert_array_equal(engine.infer(0, x), wanted)


def test_a_closed_engine_says_so(engine: Any, case: Case) -> None:
    engine.refit(0, np.array([1.0, 0.0, 0.0]))
    engine.close()
    engine.close()
    for call in (
        lambda: engine.refit(0, np.eye(3)[0]),
        lambda: engine.infer(0, case.inputs()[0]),
        lambda: engine.synchronize(0),
    ):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_a_refit_that_fails_leaves_the_slot_unusable(engine: Any, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda.blender import DeviceBlender

    engine.refit(0, np.array([1.0, 0.0, 0.0]))
    with monkeypatch.context() as patched:
        patched.setattr(
            DeviceBlender, "enqueue_blend", lambda *_: (_ for _ in ()).throw(EngineError("The blend could not be queued."))
        )
        with pytest.raises(EngineError, match="could not be queued"):
            engine.refit(0, np.array([0.0, 1.0, 0.0]))
    with pytest.raises(EngineError, match="refit it first"):
        engine.infer(0, case.inputs()[0])
    engine.refit(0, np.array([0.0, 1.0, 0.0]))
    engine.infer(0, case.inputs()[0])


def test_a_weight_without_dimensions(gpu: FakeGpu) -> None:
    hand = Hand()
    y = hand.node("Mul", [hand.conv("x", 3), hand.weight("gain", (), 0.5, 1.5)])
    case = hand.case(y)
    engine = make(case)
    try:
        engine.refit(0, np.array([0.5, 0.2, 0.3]))
        x = case.inputs()[0]
        wanted = expected(case, [0.5, 0.2, 0.3], x)
        assert np.abs(engine.infer(0, x) - wanted).max() <= TOLERANCE["fp32"] * np.ptp(wanted)
    finally:
        engine.close()


def test_graphs_are_numbered_by_slot_shape_and_place(gpu: FakeGpu, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's CPU provider knows no CUDA graphs; the run options that it gets are looked at."""
    graph_ids: list[str] = []
    run = ort.InferenceSession.run_with_iobinding

    def noted(self: ort.InferenceSession, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        graph_ids.append(options.get_run_config_entry("gpu_graph_id"))
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        run(self, binding, options)

    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", noted)
    engine = make(case, slots=2, cuda_graph=True)
    try:
        x, y = case.inputs()
        for slot in (0, 1):
            engine.refit(slot, np.eye(3)[slot])
        for slot, frame in ((0, x), (0, x), (1, x), (0, y), (0, x), (1, x)):
            engine.infer(slot, frame)
        # A first frame of a shape is run without a graph, to learn the size of its output.
        small, large = sorted((x.nbytes, y.nbytes))
        again = "1" if small == large or x.nbytes == large else "4"
        assert graph_ids == ["-1", "1", "1", "-1", "2", "-1", "3", again, "2"]
        engine.replay = False
        engine.infer(0, x)
        assert graph_ids[-1] == "-1"
    finally:
        engine.close()


def test_frames_in_device_memory(engine: Any, case: Case) -> None:
    engine.refit(0, np.array([0.2, 0.3, 0.5]))
    frame = make_frame((12, 20), np.uint8)
    assert_renders_on_device(engine, frame, case.signature, engine.render(0, frame, case.signature))


def test_a_frame_for_which_there_is_no_room(engine: Any, case: Case, gpu: FakeGpu) -> None:
    """It is refused, wherever memory ends, and nothing stays behind: smaller frames go on."""
    small, large = make_frame((6, 7), np.uint8), make_frame((40, 30), np.uint8)
    engine.refit(0, np.array([0.2, 0.3, 0.5]))
    expected, failures = engine.render(0, small, case.signature), 0
    total = gpu.memory.total
    while True:
        gpu.memory.total = gpu.memory.used + 8192 * failures
        try:
            engine.render(0, large, case.signature)
        except LimitError:
            failures += 1
        else:
            break
        finally:
            gpu.memory.total = total
        np.testing.assert_array_equal(engine.render(0, small, case.signature), expected)
    assert failures > 5


@pytest.mark.parametrize("case", ["compact"], indirect=True)
def test_frames_of_replayed_graphs(gpu: FakeGpu, case: Case) -> None:
    """No other thread may call CUDA while ONNX Runtime captures: frames come one after the other."""
    engine = make(case, slots=2, cuda_graph=True)
    for slot in range(2):
        engine.refit(slot, np.eye(3)[slot])
    inputs = [make_frame((6 + seed % 3, 7), np.uint8, seed) for seed in range(12)]
    expected = [engine.render(seed % 2, frame, case.signature) for seed, frame in enumerate(inputs)]
    within: list[int] = []

    def drive(seed: int) -> None:
        np.testing.assert_array_equal(engine.render(seed % 2, inputs[seed], case.signature), expected[seed])

    whole = engine._frame_renderer.render

    def render(*arguments: Any) -> Any:
        within.append(1)
        assert len(within) == 1
        result = whole(*arguments)
        within.pop()
        return result

    engine._frame_renderer.render = render
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(drive, range(12)))
    engine.close()


@pytest.mark.parametrize("case", ["compact"], indirect=True)
def test_one_thread_runs_what_is_replayed(gpu: FakeGpu, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA provider would capture a graph, and make handles of cuBLAS and cuDNN, for each thread that runs."""
    threads: set[int] = set()
    run = ort.InferenceSession.run_with_iobinding

    def noted(self: ort.InferenceSession, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        threads.add(threading.get_ident())
        run(self, binding, options)

    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", noted)
    count = threading.active_count()
    engine = make(case, cuda_graph=True)
    engine.refit(0, np.eye(3)[0])
    for _ in range(3):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(engine.infer, 0, case.inputs()[0]).result()
    assert len(threads) == 1
    with pytest.raises(EngineError, match="could not run an input of shape"):
        engine.infer(0, np.zeros((1, 7, 8, 8), np.float32))
    engine.close()
    assert threading.active_count() == count


def test_no_gpu_is_an_environment_problem(gpu: FakeGpu, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda import driver

    monkeypatch.setattr(driver, "load_driver_library", lambda: None)
    with pytest.raises(UnavailableError, match="no NVIDIA driver"):
        make(case)

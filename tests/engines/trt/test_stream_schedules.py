"""Schedules: TensorRT engines under streams that run as unluckily as CUDA allows.

Two slots are refitted, run, swapped and broken in every order; a frame must be of one alpha, the right one. The same is tried on
engines from which a wait, an order or a check was taken away: each of these must be caught, or the rig proves nothing.
"""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from engines.interface import EngineOptions
from tests.engines.trt import alpha_probe_network, frame_probe_network
from tests.engines.trt.alpha_probe_network import WEIGHTS, Caught, Schedule
from tests.engines.trt.frame_probe_network import FrameSchedule, compare
from tests.fakes.gpu import FakeGpu
from tests.fakes.trt.record import Recording

BOTH_BACKENDS = {"test_schedules", "test_schedules_of_frames"}

ENOUGH = 300
"""Schedules in which something that was taken away must be caught; most need fewer than ten."""

GROUPS = {
    ("11.4", "refit", False): 5500,
    ("10.16", "refit", False): 1500,
    ("rtx-1.7", "refit", False): 1500,
    ("rtx-1.7", "refit", True): 500,
    ("11.4", "refit", True): 4000,
    ("11.4", "inputs", False): 3000,
    ("11.4", "inputs", True): 1000,
    ("11.4", "graph", False): 1000,
    ("8.6", "refit", False): 2000,
}
"""Of the 20,000 schedules: version, kind of engine, whether frames are replayed as CUDA graphs."""


@pytest.fixture(autouse=True)
def small_probe(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verification's picture is the smallest one, so that buffers still have to grow while frames run."""
    monkeypatch.setattr("engines.verification.VERIFICATION_SIDE_PX", 1)
    monkeypatch.setattr(Recording, "version", None)  # the calls are looked at elsewhere


def opened(gpu: FakeGpu, folder: Path, kind: str = "refit", graph: bool = False, slots: int = 2) -> Any:
    """A built and verified engine, evaluated by hand from then on."""
    gpu.trt.evaluator, gpu.trt.shapes = alpha_probe_network.evaluate, alpha_probe_network.shapes
    if kind == "graph":  # its graph is not the tags' any more
        gpu.trt.evaluator = None
    bundle = alpha_probe_network.bundle(folder)
    alpha_probe_network.build(bundle, kind)
    return alpha_probe_network.open_engine(bundle, kind, EngineOptions(slots=slots, cuda_graph=graph))


def run(gpu: FakeGpu, folder: Path, kind: str, graph: bool, seeds: range) -> None:
    engine = opened(gpu, folder, kind, graph)
    try:
        schedule = Schedule(engine, gpu, fails=kind == "refit", by_row=kind == "refit")
        for seed in seeds:
            schedule.run(seed)
    finally:
        gpu.scheduler.reseed(None)
        engine.close()


groups = pytest.mark.parametrize(("gpu", "kind", "graph"), list(GROUPS), indirect=["gpu"])
newest = pytest.mark.parametrize("gpu", ["11.4"], indirect=True)
oldest = pytest.mark.parametrize("gpu", ["8.6"], indirect=True)


@groups
def test_schedules(gpu: FakeGpu, tmp_path: Path, kind: str, graph: bool) -> None:
    run(gpu, tmp_path, kind, graph, range(40))


@pytest.mark.slow
@groups
def test_twenty_thousand_schedules(gpu: FakeGpu, tmp_path: Path, kind: str, graph: bool) -> None:
    run(gpu, tmp_path, kind, graph, range(1000, 1000 + GROUPS[gpu.tensorrt, kind, graph]))


def test_that_they_are_twenty_thousand() -> None:
    assert sum(GROUPS.values()) == 20_000


@newest
@pytest.mark.parametrize("sees", [True, False])
def test_graphs_whatever_they_see_of_a_refit(gpu: FakeGpu, tmp_path: Path, sees: bool) -> None:
    """NVIDIA does not say which of the two it is: the probe at the opening finds out."""
    gpu.trt.graphs_see_refits = sees
    run(gpu, tmp_path, "refit", True, range(60))


@newest
def test_slots_in_threads_of_their_own(gpu: FakeGpu, tmp_path: Path, nervous: None) -> None:
    engine = opened(gpu, tmp_path)
    gpu.scheduler.reseed(0)
    schedule = Schedule(engine, gpu, fails=False)
    errors: list[BaseException] = []

    def drive(slot: int) -> None:
        try:
            for seed in range(60):
                schedule.run(seed, only=slot)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=drive, args=(slot,)) for slot in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    gpu.scheduler.reseed(None)
    engine.close()
    assert not errors, errors


@groups
def test_schedules_of_frames(gpu: FakeGpu, tmp_path: Path, kind: str, graph: bool) -> None:
    engine = frame_probe_network.open_engine(gpu, tmp_path, kind, graph=graph)
    schedule = FrameSchedule(engine, gpu, (np.float32,)) if kind == "graph" else FrameSchedule(engine, gpu)
    for seed in range(60):
        schedule.run(seed)
    gpu.scheduler.reseed(None)
    engine.close()


@pytest.mark.parametrize(("gpu", "graph"), [("11.4", False), ("11.4", True), ("8.6", False)], indirect=["gpu"])
def test_frames_of_several_threads_on_each_slot(gpu: FakeGpu, tmp_path: Path, graph: bool, nervous: None) -> None:
    """A session refits no slot with a frame in it, so each slot keeps its alpha while its threads render."""
    engine = frame_probe_network.open_engine(gpu, tmp_path, graph=graph)
    shares, errors = (0.25, 0.75), []

    def drive(number: int) -> None:
        chance, slot = random.Random(number), number % 2
        try:
            for _ in range(25):
                frame = frame_probe_network.make_frame(chance)
                compare(
                    engine.render(slot, frame, frame_probe_network.SIGNATURE), frame_probe_network.picture(shares[slot], frame)
                )
        except BaseException as error:
            errors.append(error)

    for seed in (None, 0, 1):
        gpu.scheduler.reseed(seed)
        for slot, share in enumerate(shares):
            engine.refit(slot, np.array([1 - share, share]))
        threads = [threading.Thread(target=drive, args=(number,), daemon=True) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    gpu.scheduler.reseed(None)
    engine.close()
    assert not errors, errors


@pytest.mark.parametrize("gpu", ["11.4", "8.6"], indirect=True)
@pytest.mark.parametrize("stop", range(WEIGHTS))
def test_refit_that_stops_after_k_weights(gpu: FakeGpu, tmp_path: Path, stop: int) -> None:
    """An error, then no frame at all until a whole refit succeeds; the other slot goes on."""
    engine = opened(gpu, tmp_path)
    x = np.ones((1, 1, 1, 1), np.float32)
    for slot in (0, 1):
        engine.refit(slot, np.array([1.0, 0.0]))
    gpu.trt.fail["refit"] = stop
    with pytest.raises(EngineError, match="refit"):
        engine.refit(0, np.array([0.0, 1.0]))
    for _ in range(2):
        with pytest.raises(EngineError, match="refit it first"):
            engine.infer(0, x)
    assert np.array_equal(engine.infer(1, x), alpha_probe_network.picture(0.0, x))
    engine.refit(0, np.array([0.5, 0.5]))
    assert np.array_equal(engine.infer(0, x), alpha_probe_network.picture(0.5, x))
    engine.close()


@pytest.mark.parametrize("gpu", ["11.4", "8.6"], indirect=True)
@pytest.mark.parametrize("call", range(WEIGHTS))
def test_weight_that_is_refused(gpu: FakeGpu, tmp_path: Path, call: int) -> None:
    """Every False is an error on that line, and nothing is left behind."""
    engine = opened(gpu, tmp_path)
    engine.close()
    gpu.trt.fail["set"] = call
    (tmp_path / "again").mkdir()
    bundle = alpha_probe_network.bundle(tmp_path / "again")
    with pytest.raises(EngineError, match=f"tag{call}"):
        alpha_probe_network.build(bundle)


@pytest.mark.parametrize("gpu", ["11.4", "10.16", "8.6"], indirect=True)
def test_there_and_back_gives_the_same_bytes(gpu: FakeGpu, tmp_path: Path) -> None:
    engine = opened(gpu, tmp_path)
    x = np.random.default_rng(0).random((1, 1, 4, 4), np.float32)
    there, back = np.array([0.3, 0.7]), np.array([0.9, 0.1])
    seen: list[tuple[bytes, bytes]] = []
    for shares in (there, back, there):
        engine.refit(0, shares)
        seen.append((engine.infer(0, x).tobytes(), engine.serialize(0)))
    engine.close()
    assert seen[0] == seen[2]
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


# What was taken away must be caught.


@contextmanager
def deaf(stream: Any) -> Iterator[None]:
    """The stream's synchronize comes back at once."""

    class Deaf(type(stream)):  # type: ignore[misc]
        def synchronize(self) -> None:
            pass

    before = type(stream)
    stream.__class__ = Deaf
    try:
        yield
    finally:
        stream.__class__ = before


def without_waiting(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, stream: Callable[..., Any]) -> None:
    """The method, in which this stream is not waited for."""
    whole = getattr(owner, method)

    def call(self: Any, *args: Any, **options: Any) -> Any:
        with deaf(stream(self, *args)):
            return whole(self, *args, **options)

    monkeypatch.setattr(owner, method, call)


def catch(gpu: FakeGpu, folder: Path, kind: str = "refit", graph: bool = False, fails: bool = False) -> str:
    """The sentence of what was caught; fails where nothing was. Ends with the machine as if nothing had been wrong."""
    said = "nothing"
    engine = None
    try:
        engine = opened(gpu, folder, kind, graph)
        schedule = Schedule(engine, gpu, fails=fails, by_row=kind == "refit")
        for seed in range(ENOUGH):
            schedule.run(seed)
    except (Caught, EngineError) as error:
        said = str(error)
    gpu.scheduler.reseed(None)
    if engine is not None:
        engine.close()
    gpu.scheduler.drain_all()
    gc.collect()  # what an error's frames still held
    if said == "nothing" and gpu.violations:
        said = gpu.violations[0]
    assert said != "nothing", f"{ENOUGH} schedules and what was taken away was not missed"
    gpu.violations.clear()
    return said


def test_the_rig_catches_nothing_in_the_engine_as_it_is(gpu: FakeGpu, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="was not missed"):
        catch(gpu, tmp_path, fails=True)


def test_fetch_that_does_not_wait(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.trt.runner import Runner

    without_waiting(monkeypatch, Runner, "download", lambda runner: runner.stream)
    catch(gpu, tmp_path)


def test_members_that_are_not_there_yet(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda.members import DeviceMembers

    without_waiting(monkeypatch, DeviceMembers, "__init__", lambda members, device, *more: device.setup_stream)
    assert "another output" in catch(gpu, tmp_path)


def test_refit_on_another_stream(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.trt.refitter import Refitter

    made = Refitter.__init__

    def elsewhere(self: Any, engine: Any, source: Any, constants: Any, features: Any, stream: Any) -> None:
        from engines.cuda import backend as cuda

        made(self, engine, source, constants, features, cuda.Stream(1))

    monkeypatch.setattr(Refitter, "__init__", elsewhere)
    catch(gpu, tmp_path)


def test_blend_on_another_stream(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda.blender import DeviceBlender

    made, whole = DeviceBlender.__init__, DeviceBlender.enqueue_blend

    def make(self: Any, device: Any, members: Any) -> None:
        made(self, device, members)
        self.service = device.setup_stream

    def elsewhere(self: Any, shares: NDArray[np.float64], live: Any, stream: Any) -> None:
        whole(self, shares, live, self.service)

    monkeypatch.setattr(DeviceBlender, "__init__", make)
    monkeypatch.setattr(DeviceBlender, "enqueue_blend", elsewhere)
    catch(gpu, tmp_path)


def test_shares_on_another_stream(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda.per_tensor_coefficients import CoefficientTable

    whole = CoefficientTable.upload
    monkeypatch.setattr(CoefficientTable, "upload", lambda table, data, stream: whole(table, data, table._buffer._setup_stream))
    catch(gpu, tmp_path)


def test_one_table_of_shares_for_two_slots(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels may still read it when the other slot's are to come: hence one per slot."""
    from engines.cuda.per_tensor_coefficients import CoefficientTable

    made: list[CoefficientTable] = []
    whole = CoefficientTable.upload

    def shared(self: CoefficientTable, data: bytes, stream: Any) -> int:
        made.append(self)
        return whole(next(table for table in made if table._buffer.pointer), data, stream)

    monkeypatch.setattr(CoefficientTable, "upload", shared)
    catch(gpu, tmp_path)


@pytest.mark.parametrize("copy", ["upload", "download"])
def test_pictures_on_another_stream(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: str) -> None:
    from engines.cuda.memory import Buffer

    whole = getattr(Buffer, copy)

    def elsewhere(self: Any, array: NDArray[Any], stream: Any = None, offset: int = 0) -> None:
        whole(self, array, stream and self._setup_stream, offset)

    monkeypatch.setattr(Buffer, copy, elsewhere)
    catch(gpu, tmp_path)


def catch_frames(gpu: FakeGpu, folder: Path) -> None:
    """Fails where nothing is wrong in schedules of frames. Ends with the machine as if nothing had been wrong."""
    engine = frame_probe_network.open_engine(gpu, folder)
    wrong = False
    try:
        schedule = FrameSchedule(engine, gpu)
        for seed in range(ENOUGH):
            schedule.run(seed)
    except Caught:
        wrong = True
    gpu.scheduler.reseed(None)
    engine.close()
    gpu.scheduler.drain_all()
    gc.collect()
    assert wrong, f"{ENOUGH} schedules of frames and what was taken away was not missed"
    gpu.violations.clear()


@pytest.mark.parametrize("method", ["enqueue_frame_to_input", "enqueue_output_to_frame"])
def test_conversion_on_another_stream(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    from engines.cuda import backend as cuda
    from engines.cuda.frame_kernels import FrameKernels

    whole = getattr(FrameKernels, method)
    streams: list[Any] = []

    def elsewhere(self: Any, *arguments: Any) -> None:
        streams.append(cuda.Stream(1))
        whole(self, *arguments[:-1], streams[-1])

    monkeypatch.setattr(FrameKernels, method, elsewhere)
    catch_frames(gpu, tmp_path)


def test_counter_that_is_cleared_too_late(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda import backend as cuda

    monkeypatch.setattr(cuda, "memset_d32_async", lambda *arguments: None)
    catch_frames(gpu, tmp_path)


@pytest.mark.parametrize("event", ["uploaded", "computed", "downloaded"])
def test_frames_whose_event_is_not_waited_for(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    from engines.cuda import backend as cuda
    from engines.cuda.frame_buffers import FrameBuffers

    made = FrameBuffers.__init__

    class Unheard(cuda.Event):  # type: ignore[misc]
        def record(self, stream: Any = None) -> Any:
            return self

    def make(self: Any, device: Any) -> None:
        made(self, device)
        setattr(self, f"{event}_event", Unheard())

    monkeypatch.setattr(FrameBuffers, "__init__", make)
    catch_frames(gpu, tmp_path)


def test_finish_that_does_not_wait(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.trt.engine import TensorRTEngine

    without_waiting(monkeypatch, TensorRTEngine, "synchronize", lambda engine, slot: engine._buffer_sets[slot].stream)
    assert "finish came back" in catch(gpu, tmp_path)


def test_input_overwritten_before_it_was_copied(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda import backend as cuda

    monkeypatch.setattr(cuda.Event, "synchronize", lambda event: event)
    catch(gpu, tmp_path)


@pytest.mark.parametrize("waits", [True, False])
def test_buffers_freed_under_a_frame(gpu: FakeGpu, tmp_path: Path, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.trt.runner import Runner

    engine = opened(gpu, tmp_path)
    if not waits:
        without_waiting(monkeypatch, Runner, "_ensure_buffer", lambda runner, *more: runner.stream)
    small, large = np.ones((1, 1, 1, 1), np.float32), np.ones(alpha_probe_network.LARGEST, np.float32)
    engine.refit(0, np.array([0.5, 0.5]))
    engine.upload(0, small)
    engine.enqueue(0)
    engine.upload(0, large)
    engine.close()
    assert any("freed" in sentence for sentence in gpu.violations) is not waits
    gpu.violations.clear()


def test_engine_closed_under_a_frame(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(gpu, tmp_path)
    x = np.ones((1, 1, 1, 1), np.float32)
    engine.refit(0, np.array([0.5, 0.5]))
    engine.upload(0, x)
    engine.enqueue(0)
    with deaf(engine._buffer_sets[0].stream):
        engine.close()
    gpu.scheduler.drain_all()
    assert any("destroyed while its work was pending" in sentence for sentence in gpu.violations)
    assert any("freed" in sentence for sentence in gpu.violations)
    gpu.violations.clear()


def test_one_engine_for_two_slots(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running engine must not be refitted from another stream: hence one per slot."""
    from engines.trt.engine import TensorRTEngine

    whole = TensorRTEngine._deserialize_plan

    def shared(self: Any, plan: Any) -> Any:
        buffers = next(iter(self._buffer_sets), None)
        return whole(self, plan) if buffers is None else buffers.engine

    monkeypatch.setattr(TensorRTEngine, "_deserialize_plan", shared)
    catch(gpu, tmp_path)


def test_failed_refit_that_poisons_nothing(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.trt.engine import TensorRTEngine

    whole = TensorRTEngine.refit

    def forgiving(self: Any, slot: int, coefficients: NDArray[np.float64]) -> None:
        try:
            whole(self, slot, coefficients)
        finally:
            self._buffer_sets[slot].unusable_reason = None

    monkeypatch.setattr(TensorRTEngine, "refit", forgiving)
    assert "was not refused" in catch(gpu, tmp_path, fails=True)


def test_refit_that_does_not_look_at_the_answer(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt

    whole = tensorrt.Refitter.refit_cuda_engine_async

    def always(self: Any, stream_handle: int) -> bool:
        whole(self, stream_handle)
        return True

    monkeypatch.setattr(tensorrt.Refitter, "refit_cuda_engine_async", always)
    catch(gpu, tmp_path, fails=True)


def test_graphs_kept_though_they_see_no_refit(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.trt.runner import Runner

    gpu.trt.graphs_see_refits = False
    monkeypatch.setattr(Runner, "invalidate_graph", lambda runner: None)
    monkeypatch.setattr("engines.trt.engine.TensorRTEngine.detect_replay_support", _replay_at_once)
    catch(gpu, tmp_path, graph=True)


def _replay_at_once(engine: Any, x: NDArray[np.float32]) -> None:
    for at in engine._buffer_sets:
        at.runner.replay = True


@oldest
def test_host_weights_read_before_the_blend(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.trt.refitter import RefitWeights

    without_waiting(monkeypatch, RefitWeights, "download_to_host", lambda source, stream: stream)
    catch(gpu, tmp_path)


@oldest
def test_old_context_after_a_refit(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.trt.runner import Runner

    whole = Runner.destroy_context
    monkeypatch.setattr(Runner, "destroy_context", lambda runner: None)
    catch(gpu, tmp_path)
    monkeypatch.setattr(Runner, "destroy_context", whole)


@oldest
def test_context_dropped_under_a_frame(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.trt.engine import RefitBufferSet

    without_waiting(monkeypatch, RefitBufferSet, "apply_coefficients", lambda buffers, coefficients: buffers.stream)
    catch(gpu, tmp_path)

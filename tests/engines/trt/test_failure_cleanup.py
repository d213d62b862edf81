"""Unlucky: whatever fails in the middle of opening, building or closing, it is one clear error and nothing stays behind.

The `gpu` fixture looks for what was left: memory, streams, contexts, TensorRT's objects.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, EngineError, LimitError, UnavailableError
from engines.interface import BuildOptions, EngineOptions
from engines.lowering.gpu import LoweredGraph
from engines.registry import build_engine, load_engine
from engines.trt import build_refit, open_refit, serialize_refitted
from engines.trt.plan import Plan, PlanIdentity, read_plan, write_plan
from tests.engines.conftest import Case, write
from tests.engines.trt.conftest import bn, picture, profile
from tests.engines.trt.test_modes import build, everywhere
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import Hand


def refused(gpu: FakeGpu, words: str, call: Callable[[], Any]) -> None:
    """The call fails with these words, and nothing is left even while the exception and its frames are there."""
    with pytest.raises(DniError, match=words) as told:
        call()
    assert gpu.leaks() == [], told


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
@pytest.mark.parametrize("slots", [1, 2])
def test_each_weight_refused_at_opening(slots: int, bundle: Bundle, gpu: FakeGpu) -> None:
    weights = build(bundle).weights
    for number in range(slots * weights):
        gpu.trt.fail = {"set": number}
        refused(gpu, "could not take the weight", lambda: load_engine(bundle, "tensorrt", EngineOptions(slots=slots)))
    gpu.trt.fail = {"set": slots * weights}  # one more than there are
    load_engine(bundle, "tensorrt", EngineOptions(slots=slots)).close()


@everywhere
@pytest.mark.parametrize("call", ["refit", "execute"])
def test_a_failure_in_the_verification(call: str, bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    gpu.trt.fail = {call: 0}
    refused(gpu, "could not", lambda: load_engine(bundle, "tensorrt"))
    load_engine(bundle, "tensorrt").close()


@everywhere
def test_memory_that_ends_at_every_step(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    load_engine(bundle, "tensorrt").close()
    left, failures, total = 0, 0, gpu.memory.total
    while True:
        gpu.memory.total = gpu.memory.used + left
        try:
            load_engine(bundle, "tensorrt").close()
        except (EngineError, LimitError):
            assert gpu.leaks() == []
            failures += 1
            left += 1 << 11
        else:
            break
        finally:
            gpu.memory.total = total
    assert failures > 3  # members, arena, input, output


@everywhere
def test_a_build_that_fails_writes_nothing(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> float:
        raise EngineError("another output")

    monkeypatch.setattr("engines.trt.build.verify_members", wrong)
    refused(gpu, "another output", lambda: build(bundle))
    assert not list((bundle.path / "plans").glob("*"))


def unreadable() -> Case:
    """A graph with an operator that no parser knows."""
    hand = Hand()
    case = hand.case(hand.node("Dream", [hand.conv("x", 3)]))
    case.graph.opset_import[0].version = 17
    return case


@everywhere
def test_a_graph_that_cannot_be_read(gpu: FakeGpu, tmp_path: Path) -> None:
    bundle = write(unreadable(), tmp_path / "dream.dni")
    refused(gpu, "cannot read the graph.*Dream", lambda: build(bundle))


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
def test_progress_and_ctrl_c(bundle: Bundle, gpu: FakeGpu) -> None:
    told: list[tuple[int, int, str]] = []

    def stop(done: int, total: int, what: str) -> None:
        if total > 1:
            raise KeyboardInterrupt

    options = BuildOptions(profile=profile(bundle))
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, "tensorrt", options, stop)
    assert not list((bundle.path / "plans").glob("*"))
    build_engine(bundle, "tensorrt", options, lambda *given: told.append(given))
    assert all(0 <= done <= total and total > 0 for done, total, _ in told)
    assert told[0][2] == "lowering the graph"
    assert told[-1][2] == "comparing with ONNX Runtime"
    assert len(told) > 4


@everywhere
def test_nothing_is_printed(bundle: Bundle, gpu: FakeGpu, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """stdout is for results, and Polygraphy prints there."""
    build(bundle)
    with pytest.raises(EngineError):
        build(write(unreadable(), tmp_path / "dream.dni"))
    said = capfd.readouterr()
    assert said.out == said.err == ""


@everywhere
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_the_timing_cache(damage: bytes | None, bundle: Bundle, gpu: FakeGpu, tmp_path: Path, monkeypatch: Any) -> None:
    """It is written, read again, and no harm where it is damaged."""
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "cache"))
    build(bundle)
    (cache,) = (tmp_path / "cache" / "tensorrt").iterdir()
    if damage is not None:
        cache.write_bytes(damage)
    build(bundle, force=True)
    assert cache.read_bytes()


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
def test_weights_beyond_float16(gpu: FakeGpu, tmp_path: Path) -> None:
    """8.6 keeps float32 weights and narrows them itself."""
    case = bn()
    case.members[1][case.weights[0]].reshape(-1)[0] = 1e6
    with pytest.raises(EngineError, match="beyond 65504"):
        build(write(case, tmp_path / "large.dni"), precision="fp16")


@everywhere
def test_another_lowering(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's graph is the bundle's graph as we lower it today; its identity should have told already."""
    build(bundle)
    monkeypatch.setattr(LoweredGraph, "digest", lambda self: "1" * 64)
    with pytest.raises(EngineError, match="another lowering"):
        load_engine(bundle, "tensorrt")


@everywhere
def test_no_compiler_for_the_kernel(bundle: Bundle, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(bundle)
    gpu.nvcc = False
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "empty"))
    refused(gpu, "nvcc", lambda: load_engine(bundle, "tensorrt"))


@everywhere
def test_a_plan_that_tensorrt_does_not_take(bundle: Bundle, gpu: FakeGpu) -> None:
    path = build(bundle).plan
    held = read_plan(path, PlanIdentity.for_bundle(bundle, "refit", profile=profile(bundle)))
    write_plan(bundle, Plan(held.header, b"not an engine"), force=True)
    refused(gpu, "could not load the plan", lambda: load_engine(bundle, "tensorrt"))


def test_closing_with_work_queued(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    engine: Any = load_engine(bundle, "tensorrt", EngineOptions(slots=2))
    for slot in range(2):
        engine.refit(slot, np.array([0.5, 0.25, 0.25]))
        engine.place(slot, picture(slot))
        engine.enqueue(slot)
    engine.close()


@everywhere
def test_no_room_for_a_larger_frame(bundle: Bundle, gpu: FakeGpu) -> None:
    """The frame is refused, and smaller ones go on."""
    build(bundle)
    engine: Any = load_engine(bundle, "tensorrt")
    engine.refit(0, np.array([1.0, 0, 0]))
    small, large = picture(0, 8, 8), picture(0, 24, 24)
    expected = engine.infer(0, small)
    total, gpu.memory.total = gpu.memory.total, gpu.memory.used - 1
    engine.all[0].run._buffers["in"].nbytes = small.nbytes  # as if nothing larger had come yet
    with pytest.raises(LimitError, match="free"):
        engine.place(0, large)
    with pytest.raises(EngineError, match="No input was placed"):
        engine.enqueue(0)
    gpu.memory.total = total
    assert np.array_equal(engine.infer(0, small), expected)
    assert engine.infer(0, large).shape == (1, 3, 24, 24)
    engine.close()


def test_slots_beyond(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    engine = load_engine(bundle, "tensorrt")
    with pytest.raises(IndexError):
        engine.refit(1, np.array([1.0, 0, 0]))
    engine.close()


@pytest.mark.parametrize(
    "error", [ImportError("libnvinfer.so.11: cannot open\nshared object file"), OSError("no such library")]
)
def test_a_package_that_does_not_import(
    error: Exception, bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that it links is missing, say: what is lacking is told, and `auto` goes on to the next engine."""

    def refuse(name: str) -> None:
        raise error

    monkeypatch.setattr("engines.trt.import_module", refuse)
    for call in (
        lambda: build_refit(bundle, BuildOptions()),
        lambda: open_refit(bundle, EngineOptions()),
        lambda: serialize_refitted(bundle, np.array([1.0, 0, 0])),
    ):
        with pytest.raises(UnavailableError, match=f"TensorRT cannot run here: {type(error).__name__}, ") as told:
            call()
        assert not isinstance(told.value, EngineError)
        assert "\n" not in str(told.value)

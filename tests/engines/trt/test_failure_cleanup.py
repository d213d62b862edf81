"""Fault injection: whatever fails in the middle of opening or closing, it is one clear error and nothing stays behind.

The `gpu` fixture looks for what was left: memory, streams, contexts, TensorRT's objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, LimitError, UnavailableError
from engines import registry
from engines.interface import BuildOptions, EngineOptions
from engines.lowering.gpu import LoweredGraph
from engines.registry import build_engine, import_backend_function, load_engine
from engines.trt.plan import Plan, read_plan, write_plan
from tests.engines.trt.conftest import assert_refused, build, engine_name, everywhere, identity_of, picture
from tests.fakes.gpu import FakeGpu


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
@pytest.mark.parametrize("slots", [1, 2])
def test_each_weight_refused_at_opening(slots: int, bundle: Bundle, gpu: FakeGpu) -> None:
    weights = build(bundle).weight_count
    for number in range(slots * weights):
        gpu.trt.fail = {"set": number}
        assert_refused(gpu, "could not take the weight", lambda: load_engine(bundle, engine_name(), EngineOptions(slots=slots)))
    gpu.trt.fail = {"set": slots * weights}  # one more than there are
    load_engine(bundle, engine_name(), EngineOptions(slots=slots)).close()


@everywhere
@pytest.mark.parametrize("call", ["refit", "execute"])
def test_a_failure_in_the_verification(call: str, bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    gpu.trt.fail = {call: 0}
    assert_refused(gpu, "could not", lambda: load_engine(bundle, engine_name()))
    load_engine(bundle, engine_name()).close()


@everywhere
def test_memory_that_ends_at_every_step(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    load_engine(bundle, engine_name()).close()
    left, failures, total = 0, 0, gpu.memory.total
    while True:
        gpu.memory.total = gpu.memory.used + left
        try:
            load_engine(bundle, engine_name()).close()
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
def test_a_plan_of_another_lowering_is_refused(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's graph is the bundle's graph as we lower it today; its identity should have shown it already."""
    build(bundle)
    monkeypatch.setattr(LoweredGraph, "digest", lambda self: "1" * 64)
    with pytest.raises(EngineError, match="another lowering"):
        load_engine(bundle, engine_name())


@everywhere
def test_no_compiler_for_the_kernel(bundle: Bundle, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(bundle)
    gpu.nvcc = False
    monkeypatch.setattr("engines.cuda.machine_code.COMPILED_FOLDER", tmp_path / "none")
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "empty"))
    assert_refused(gpu, "nvcc", lambda: load_engine(bundle, engine_name()))


@everywhere
def test_the_shipped_kernels_need_no_compiler(
    bundle: Bundle, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.nvcc = False
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "empty"))
    build(bundle)
    load_engine(bundle, engine_name()).close()
    assert {code.kind for code in gpu.loaded} == {"cubin"}


@everywhere
def test_a_plan_that_tensorrt_does_not_take(bundle: Bundle, gpu: FakeGpu) -> None:
    path = build(bundle).plan_path
    held = read_plan(path, identity_of(bundle))
    write_plan(bundle, Plan(held.header, b"not an engine"), force=True)
    assert_refused(gpu, "could not load the plan", lambda: load_engine(bundle, engine_name()))


def test_closing_with_work_queued(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    engine: Any = load_engine(bundle, engine_name(), EngineOptions(slots=2))
    for slot in range(2):
        engine.refit(slot, np.array([0.5, 0.25, 0.25]))
        engine.upload(slot, picture(slot))
        engine.enqueue(slot)
    engine.close()


@everywhere
def test_no_room_for_a_larger_frame(bundle: Bundle, gpu: FakeGpu) -> None:
    """The frame is refused, and smaller ones go on."""
    build(bundle)
    engine: Any = load_engine(bundle, engine_name())
    engine.refit(0, np.array([1.0, 0, 0]))
    small, large = picture(0, 8, 8), picture(0, 24, 24)
    expected = engine.infer(0, small)
    total, gpu.memory.total = gpu.memory.total, gpu.memory.used - 1
    engine._buffer_sets[0].runner._buffers["in"].nbytes = small.nbytes  # as if nothing larger had come yet
    with pytest.raises(LimitError, match="free"):
        engine.upload(0, large)
    with pytest.raises(EngineError, match="No input was uploaded"):
        engine.enqueue(0)
    gpu.memory.total = total
    assert np.array_equal(engine.infer(0, small), expected)
    assert engine.infer(0, large).shape == (1, 3, 24, 24)
    engine.close()


def test_slots_beyond(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    engine = load_engine(bundle, engine_name())
    with pytest.raises(IndexError):
        engine.refit(1, np.array([1.0, 0, 0]))
    engine.close()


@pytest.mark.parametrize(
    "error", [ImportError("libnvinfer.so.11: cannot open\nshared object file"), OSError("no such library")]
)
def test_a_package_that_does_not_import(
    error: Exception, bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that it links is missing, say: what is missing is named, and `auto` goes on to the next engine."""

    def refuse(name: str) -> None:
        raise error

    build(bundle)
    monkeypatch.setattr(registry.importlib, "import_module", refuse)
    for call in (
        lambda: build_engine(bundle, engine_name(), BuildOptions()),
        lambda: load_engine(bundle, engine_name()),
        lambda: import_backend_function("tensorrt", "engines.trt.load:serialize_refitted"),
    ):
        with pytest.raises(UnavailableError, match=f"tensorrt cannot run here: {type(error).__name__}, ") as refusal:
            call()
        assert not isinstance(refusal.value, EngineError)
        assert "\n" not in str(refusal.value)

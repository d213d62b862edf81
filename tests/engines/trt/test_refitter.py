"""Refitter: every name that the engine takes is supplied and every name that is supplied is taken, or it is an error that says which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from engines.interface import BuildOptions
from engines.registry import load_engine
from engines.trt.plan import Plan, read_plan, write_plan
from tests.engines.trt.alpha_probe_network import engine_class
from tests.engines.trt.conftest import build, engine_name, everywhere, identity_of, library, opened, picture, profile
from tests.fakes.gpu import FakeGpu


def tamper(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[str]], list[str]]) -> None:
    """The engine tells other names of weights than it has."""
    refitter = library().trt.Refitter
    real = refitter.get_all_weights
    monkeypatch.setattr(refitter, "get_all_weights", lambda self: change(list(real(self))))


@everywhere
def test_a_weight_that_the_plan_lacks(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the builder folded it: the slider would silently not move it."""
    build(bundle)
    tamper(monkeypatch, lambda names: [name for name in names if not name.startswith("conv7")])
    with pytest.raises(EngineError, match=r"2 of the bundle's \d+ weights are not in it, first 'conv7.weight', 'conv7.bias'"):
        load_engine(bundle, engine_name())


@everywhere
def test_a_weight_that_the_bundle_lacks(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the parser folds by itself: TensorRT wants it back, and nobody could blend it."""
    build(bundle)
    tamper(monkeypatch, lambda names: [*names, "tmp_weight", "tmp_weight_0"])
    with pytest.raises(EngineError, match="2 of its weights are not the bundle's, first 'tmp_weight', 'tmp_weight_0'"):
        load_engine(bundle, engine_name())


@everywhere
def test_missing_and_unknown_weights_are_named_together(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    build(bundle)
    tamper(monkeypatch, lambda names: ["renamed\x1b" if name == "conv0.weight" else name for name in names])
    with pytest.raises(EngineError, match=r"not in it, first 'conv0.weight'; 1 of its weights are not the bundle's") as refusal:
        load_engine(bundle, engine_name())
    assert "\x1b" not in str(refusal.value)


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
def test_another_count_than_the_plan_has(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.trt.refitter import RefitWeights

    build(bundle)
    real = RefitWeights.count_of
    monkeypatch.setattr(RefitWeights, "count_of", lambda self, name: real(self, name) - (name == "conv0.bias"))
    with pytest.raises(EngineError, match=r"'conv0.bias' as 8 numbers.*as 7 of float32"):
        load_engine(bundle, engine_name())


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
def test_the_weights_are_set_once(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on a refit is one call. The bindings would keep a reference for every call."""
    import tensorrt as trt

    calls: list[str] = []
    real = trt.Refitter.set_named_weights

    def count(self: Any, name: str, *given: Any) -> Any:
        calls.append(name)
        return real(self, name, *given)

    monkeypatch.setattr(trt.Refitter, "set_named_weights", count)
    build(bundle)
    with opened(bundle) as engine:
        once = len(calls)
        assert len(set(calls)) == once / 2  # once in the build's engine, once in this
        for step in range(5):
            engine.refit(0, np.roll(np.array([1.0, 0, 0]), step))
            engine.infer(0, picture())
        assert len(calls) == once
        assert engine._buffer_sets[0].refitter._refitter.weights_validation is False


@pytest.mark.parametrize("gpu", ["8.6"], indirect=True)
def test_a_new_refitter_now_and_then(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """8.6 sets all weights at each refit, and its binding keeps them for the refitter's life."""
    monkeypatch.setattr("engines.trt.refitter.REFITTER_RENEWAL_PERIOD", 3)
    build(bundle)
    with opened(bundle) as engine:
        refitters = set()
        kept = []
        for step in range(7):
            engine.refit(0, np.roll(np.array([1.0, 0, 0]), step))
            kept.append(engine._buffer_sets[0].refitter._refitter)
            refitters.add(id(kept[-1]))
        kept.clear()
        assert 3 <= len(refitters) <= 4
        assert np.array_equal(engine.infer(0, picture()), engine.infer(0, picture()))


@everywhere
def test_a_plan_that_cannot_be_refitted(bundle: Bundle, gpu: FakeGpu) -> None:
    """As one whose engine was built with constant weights."""
    from dni_deploy.latency.baselines.tensorrt import ConstantNetwork
    from engines.trt.build import build_plan

    path = build_plan(bundle, BuildOptions(profile=profile(bundle)), None, engine_class("constant", engine_name())).plan_path
    assert path is not None
    constant = read_plan(path, identity_of(bundle, ConstantNetwork))
    held = read_plan(build(bundle).plan_path, identity_of(bundle))
    write_plan(bundle, Plan(held.header, constant.engine), force=True)
    with pytest.raises(EngineError, match="cannot be refitted"):
        load_engine(bundle, engine_name())

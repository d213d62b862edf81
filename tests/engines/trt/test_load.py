"""Opening a plan on the fake TensorRT of each version: which one is taken, what it is compared with, and what is said without one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError
from dni_deploy.utils.compare_arrays import relative_error
from engines.interface import EngineOptions
from engines.registry import load_engine
from engines.trt.plan import PLAN_FORMAT
from tests.engines.conftest import write
from tests.engines.trt.conftest import (
    CASES,
    TOLERANCE,
    build,
    engine_name,
    everywhere,
    opened,
    picture,
    serialize_refitted,
    truth,
)
from tests.fakes.gpu import FakeGpu

ALPHAS = ([1, 0, 0], [0, 1, 0], [0.5, 0.25, 0.25], [0, 0.7, 0.3])


@everywhere
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_built_and_opened_plan_renders_the_blend(case: str, precision: str, gpu: FakeGpu, tmp_path: Path) -> None:
    bundle = write(CASES[case](), tmp_path / "case.dni", members=3)
    built = build(bundle, precision=precision)
    assert built.max_relative_error <= TOLERANCE[precision]
    assert built.plan_path.name.startswith(f"{engine_name()}-refit-{precision}-")
    assert built.weight_count > 0
    with opened(bundle) as engine:
        assert engine.name == engine_name()
        assert engine.slots == 1
        assert engine.update_path.startswith("TensorRT ")
        assert precision in engine.update_path
        for shares in ALPHAS:
            engine.refit(0, np.array(shares, np.float64))
            for x in (picture(0), picture(1, 16, 16)):
                assert relative_error(engine.infer(0, x), truth(bundle, shares, x)) <= TOLERANCE[precision]


@everywhere
def test_opening_needs_no_reference(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan keeps some of the output that ONNX Runtime expected: at 720p the CPU would take minutes for it."""
    build(bundle)

    def refuse(*given: Any) -> Any:
        raise AssertionError("ONNX Runtime was asked")

    monkeypatch.setattr("engines.verification.Reference.compute_reference", refuse)
    with opened(bundle):
        pass


@everywhere
def test_a_refit_plan_serves_another_family_on_the_graph(gpu: FakeGpu, tmp_path: Path) -> None:
    """A refit plan serves every family on the graph; it is then compared anew."""
    case = CASES["bn"]()
    one, other = write(case, tmp_path / "one.dni", members=2), write(case, tmp_path / "other.dni", members=3)
    assert one.manifest.graph == other.manifest.graph
    plan = build(one).plan_path
    (other.path / "plans").mkdir()
    (other.path / "plans" / plan.name).write_bytes(plan.read_bytes())
    (other.path / "plans" / plan.name).chmod(0o600)
    with opened(one) as first:
        digest = first.plan_digest
    with opened(other) as engine:
        assert engine.plan_digest == digest
        assert bytes.fromhex(digest) in plan.read_bytes()  # the head of the file has the same
        engine.refit(0, np.array([0, 0, 1.0]))
        assert relative_error(engine.infer(0, picture()), truth(other, [0, 0, 1], picture())) <= 1e-5


@everywhere
def test_without_a_plan_the_error_names_the_command(bundle: Bundle, gpu: FakeGpu) -> None:
    from engines.trt.engine import REFIT_ENGINES
    from engines.trt.load import open_engine

    with pytest.raises(UnavailableError, match=f"--engine {engine_name()} --precision fp16") as refusal:
        open_engine(bundle, EngineOptions(precision="fp16"), REFIT_ENGINES[engine_name()])
    assert not isinstance(refusal.value, EngineError)  # auto skips it


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
def test_a_plan_without_weights(bundle: Bundle, gpu: FakeGpu) -> None:
    whole, stripped = build(bundle).plan_path, build(bundle, strip=True).plan_path
    assert whole != stripped
    with opened(bundle) as engine:  # the newest is the stripped one
        engine.refit(0, np.array([0.5, 0.25, 0.25]))
        assert relative_error(engine.infer(0, picture()), truth(bundle, [0.5, 0.25, 0.25], picture())) <= 1e-5


@everywhere
def test_refitted_engines_of_two_alphas_differ(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    shares = np.array([0.25, 0.5, 0.25])
    data = serialize_refitted(bundle, shares)
    assert isinstance(data, bytes)
    assert data != serialize_refitted(bundle, np.array([1.0, 0, 0]))


def test_the_log_tells_which_plan_was_found_and_why_others_were_not(
    bundle: Bundle, gpu: FakeGpu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "engines.trt")
    path = build(bundle).plan_path
    assert "built " in caplog.text
    caplog.clear()
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
    assert f"plan found: {path}" in caplog.text
    assert "refit of slot 0 queued in" in caplog.text
    caplog.clear()
    monkeypatch.setattr("engines.trt.plan.PLAN_VERSION", 99)
    monkeypatch.setattr("engines.trt.plan.PLAN_MAGIC", PLAN_FORMAT + b"99\n")
    with pytest.raises(UnavailableError):
        load_engine(bundle, engine_name())
    assert f"plan rejected: {path.name} was built by an older version" in caplog.text
    assert "no plan fits for tensorrt" in caplog.text

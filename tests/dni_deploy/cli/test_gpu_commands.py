"""The commands on a GPU: from the command line to TensorRT, with fakes of the CUDA packages and TensorRT.

The fake computes with ONNX Runtime on the CPU and checks how it is used; its own scheduler decides when and in which
order its streams run. For a real GPU see docs/gpu.md.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import engines
from dni_deploy.api.build import build
from dni_deploy.api.inspect import inspect
from dni_deploy.api.refit import refit
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.cli import options
from dni_deploy.cli.main import main
from dni_deploy.errors import EngineError, UnavailableError, UsageError
from dni_deploy.session.session import open_session
from engines.interface import PRECISIONS
from tests.engines.conftest import write
from tests.engines.trt.conftest import bn
from tests.fakes.gpu import FakeGpu, install

Capture = pytest.CaptureFixture[str]
SHAPES = {"min_shape": "1x3x8x8", "opt_shape": "1x3x16x16", "max_shape": "1x3x24x24"}
TIMEOUT_S = 30.0


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    fake = install(monkeypatch, tensorrt=getattr(request, "param", "11.4"), seed=0)
    yield fake
    fake.check()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(bn(), tmp_path / "x.dni", members=2)


@pytest.fixture
def here(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the bundle x.dni and in.png."""
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (16, 20, 3), np.uint8)).save(tmp_path / "in.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frame(seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (16, 20, 3), np.uint8)


def read_report(capsys: Capture) -> dict[str, Any]:
    out, err = capsys.readouterr()
    assert err == ""
    report: dict[str, Any] = json.loads(out)
    return report


BUILD = ["build", "x.dni", "--min", "1x3x8x8", "--opt", "1x3x16x16", "--max", "1x3x24x24"]


def test_build_and_run_commands_work_together_on_a_gpu(gpu: FakeGpu, here: Path, capsys: Capture) -> None:
    """Without a plan `auto` skips TensorRT and says so; `build` builds one; from then on `auto` chooses it."""
    run = ["run", "x.dni", "in.png", "--alpha", "0.25", "--json"]
    assert main([*run, "-o", "before.png"]) == 0
    before = read_report(capsys)
    assert before["engine"] != "tensorrt"
    assert "not tensorrt: no plan is built for this GPU and this TensorRT: dni-deploy build" in before["engine_reason"]

    assert main([*BUILD, "--json"]) == 0
    built = read_report(capsys)
    assert (built["engine"], built["engine_reason"], built["precision"]) == ("tensorrt", "the first choice", "fp32")
    assert built["profile"] == "min 1x3x8x8, opt 1x3x16x16, max 1x3x24x24"
    assert built["error"] <= 1e-4
    assert Path(built["plan"]).exists()
    assert main(["inspect", "x.dni", "--json"]) == 0
    assert [(plan["engine"], plan["precision"]) for plan in read_report(capsys)["plans"]] == [("tensorrt", "fp32")]

    assert main([*run, "-o", "after.png"]) == 0
    after = read_report(capsys)
    assert (after["engine"], after["engine_reason"]) == ("tensorrt", "the first choice")
    with Image.open("before.png") as one, Image.open("after.png") as other:
        # The same network in another order of float32 additions: a pixel may round to the next value.
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    assert main(["sweep", "x.dni", "in.png", "-o", "strip.png", "--steps", "3", "--json"]) == 0
    assert read_report(capsys)["engine"] == "tensorrt"
    assert main(["run", "x.dni", "in.png", "-o", "cpu.png", "--alpha", "0.25", "--engine", "onnxruntime", "--json"]) == 0
    assert read_report(capsys)["engine_reason"] == "asked for"


def test_run_prints_the_engine_and_the_reason(gpu: FakeGpu, here: Path, capsys: Capture) -> None:
    assert main(BUILD) == 0
    assert "engine     tensorrt (the first choice)" in capsys.readouterr().out
    assert main(["run", "x.dni", "in.png", "-o", "out.png", "--alpha", "1", "--engine", "tensorrt"]) == 0
    assert "engine  tensorrt (asked for)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", ["--threads 2", "--engine onnxruntime --strip", "--engine onnxruntime --device 0", "--opt 3x3"]
)
def test_build_refuses_invalid_options(gpu: FakeGpu, here: Path, capsys: Capture, line: str) -> None:
    assert main(["build", "x.dni", *line.split()]) == 2
    assert not (here / "x.dni" / "plans").exists()


def test_a_plan_is_rebuilt_only_with_force(gpu: FakeGpu, here: Path, capsys: Capture) -> None:
    assert main(BUILD) == 0
    assert main(BUILD) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*BUILD, "--force"]) == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_chooses_the_plan(gpu: FakeGpu, bundle: Bundle, precision: str) -> None:
    assert tuple(options.PRECISION_TYPE.choices) == PRECISIONS
    for each in PRECISIONS:
        assert build(bundle.path, precision=each, **SHAPES).precision == each  # type: ignore[arg-type]
    with open_session(bundle, precision=precision) as session:
        assert precision in session.engine.update_path
        session(frame())
    assert sorted(plan.precision for plan in inspect(bundle.path).plans) == sorted(PRECISIONS)


def test_auto_skips_a_precision_without_a_plan_and_naming_it_is_an_error(gpu: FakeGpu, bundle: Bundle) -> None:
    build(bundle.path, **SHAPES)  # type: ignore[arg-type]
    with open_session(bundle, precision="fp16", threads=1) as session:
        assert session.engine.name != "tensorrt"
        assert "not tensorrt: no plan is built at fp16" in session.engine_reason
    with pytest.raises(UnavailableError, match=r"--precision fp16\.$"):
        open_session(bundle, engine="tensorrt", precision="fp16")


def test_refit_writes_a_serialized_engine_for_other_programs(gpu: FakeGpu, bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "out.plan"
    with pytest.raises(UnavailableError, match="no plan is built"):
        refit(bundle.path, 0.25, target)
    assert not target.exists()
    build(bundle.path, **SHAPES)  # type: ignore[arg-type]
    report = refit(bundle.path, 0.25, target)
    assert report.size == target.stat().st_size > 0
    assert report.numbers_changed > 0
    with pytest.raises(UsageError, match="--force"):
        refit(bundle.path, 0.25, target)
    assert refit(bundle.path, 0.25, tmp_path / "out.engine", precision="fp32").size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.engine", "out.plan", "x.dni"]


def test_auto_does_not_hide_a_failed_verification(gpu: FakeGpu, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build(bundle.path, **SHAPES)  # type: ignore[arg-type]

    from engines import verification

    monkeypatch.setitem(verification.MAX_RELATIVE_ERROR, "fp32", -1.0)  # no result is accurate enough
    with pytest.raises(EngineError, match="what auto chose"):
        open_session(bundle)


@pytest.mark.parametrize("version", ["11.4", "10.16", "8.6"])
@pytest.mark.parametrize("seed", range(3))
def test_async_frames_match_their_stamps_on_two_engines(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, version: str, seed: int, numpy_1: None
) -> None:
    """While another thread changes alpha, each frame equals, bit for bit, that of its stamp, and the last alpha is applied."""
    fake = install(monkeypatch, tensorrt=version, seed=seed)
    build(bundle.path, **SHAPES)  # type: ignore[arg-type]
    alphas = [0.0, 0.25, 0.5, 1.0]
    x = frame()
    with open_session(bundle, engine="tensorrt") as plain:
        expected = {}
        for alpha in alphas:
            plain.alpha = alpha
            expected[plain.alpha.values] = plain(x)
        assert plain.engine.slots == 1
    session = open_session(bundle, engine="tensorrt", async_refit=True)
    assert session.engine.slots == 2
    random = np.random.default_rng(seed)

    def slide() -> None:
        for number in random.integers(0, 4, 40):
            session.alpha = alphas[number]

    writer = threading.Thread(target=slide, daemon=True)
    writer.start()
    newest = 0
    for _ in range(30):
        stamped = session.render(x)
        np.testing.assert_array_equal(stamped.output, expected[stamped.coefficients.values])
        assert stamped.generation >= newest
        newest = stamped.generation
    writer.join(TIMEOUT_S)
    session.alpha = 0.25
    assert session.wait_until_applied(TIMEOUT_S)
    np.testing.assert_array_equal(session(x), expected[0.25, 0.75])
    session.close()
    fake.check()


@pytest.mark.parametrize("seed", range(3))
def test_rules_apply_on_two_engines(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Alpha changes in the idle slot under group rules: frames equal, bit for bit, those of a synchronous session."""
    fake = install(monkeypatch, tensorrt="11.4", seed=seed)
    build(bundle.path, **SHAPES)  # type: ignore[arg-type]
    x, rules = frame(), ["*.bias=0.2", "*.weight=0..1"]
    expected = []
    with open_session(bundle, engine="tensorrt") as plain:
        for alpha, session_rules in ((0.25, rules), (0.75, rules[:1]), (0.75, None)):
            plain.alpha, plain.rules = alpha, session_rules
            expected.append(plain(x))
    assert not np.array_equal(expected[0], expected[1])
    with open_session(bundle, engine="tensorrt", async_refit=True, rules=rules, alpha=0.25) as session:
        for _ in range(3):
            for number, (alpha, session_rules) in enumerate(((0.25, rules), (0.75, rules[:1]), (0.75, None))):
                session.alpha, session.rules = alpha, session_rules
                assert session.wait_until_applied(TIMEOUT_S)
                np.testing.assert_array_equal(session(x), expected[number])
    fake.check()


@pytest.fixture
def numpy_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake of 8.6 reads NumPy 2's arrays correctly, which the real one does not."""
    monkeypatch.setattr("engines.trt.library.NUMPY_MAJOR_VERSION", 1)


@pytest.mark.parametrize("after", range(5))
def test_async_a_refit_that_fails_half_way_keeps_the_previous_frame(gpu: FakeGpu, bundle: Bundle, after: int) -> None:
    """Fails after so many weights: the next frame raises once, the old weights stay, and the slot is refitted whole before use."""
    build(bundle.path, **SHAPES)  # type: ignore[arg-type]
    x = frame()
    with open_session(bundle, engine="tensorrt", async_refit=True) as session:
        frames = {}
        for number in range(4):
            session.alpha = number / 4
            assert session.wait_until_applied(TIMEOUT_S)
            frames[number] = session(x)
        gpu.trt.fail["refit"] = after
        session.alpha = 1.0
        with pytest.raises(EngineError):
            session.wait_until_applied(TIMEOUT_S)
        assert session.alpha.values == (0.75, 0.25)
        np.testing.assert_array_equal(session(x), frames[3])
        for number in (2, 0, 3):
            session.alpha = number / 4
            assert session.wait_until_applied(TIMEOUT_S)
            np.testing.assert_array_equal(session(x), frames[number])


def test_doctor_lists_all_engines_and_each_runs(gpu: FakeGpu, capsys: Capture) -> None:
    assert main(["doctor", "--json"]) == 0
    report = read_report(capsys)
    states = {state["name"]: state for state in report["engines"]}
    assert list(states) == list(engines.registry.ENGINES)
    assert states["tensorrt"]["available"]
    assert "Fake H200" in report["machine"]["gpu"]


@pytest.mark.parametrize("gpu", ["rtx-1.7"], indirect=True)
def test_tensorrt_for_rtx_from_build_to_picture(gpu: FakeGpu, here: Path, capsys: Capture) -> None:
    """auto takes it where TensorRT is not there; a plan for GPUs elsewhere is not verified, and says so."""
    assert main([*BUILD, "--engine", "tensorrt-rtx", "--device", "12.0"]) == 0
    out = capsys.readouterr().out
    assert "not verified, because this GPU is not one of those" in out
    assert "reach the output" not in out
    assert main([*BUILD, "--engine", "tensorrt-rtx", "--json"]) == 0
    assert read_report(capsys)["error"] <= 1e-5
    assert main(["run", "x.dni", "in.png", "--alpha", "0.25", "--json", "-o", "out.png"]) == 0
    assert read_report(capsys)["engine"] == "tensorrt-rtx"
    assert main(["inspect", "x.dni", "--json"]) == 0
    assert {plan["engine"] for plan in read_report(capsys)["plans"]} == {"tensorrt-rtx"}
    assert main(["refit", "x.dni", "--alpha", "0.25", "-o", "blended.plan"]) == 0
    assert (here / "blended.plan").stat().st_size > 0

"""bench: which rows run, which are omitted and why, and what the report says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.api.bench import ModeResult, _compute_memory_ratio, _compute_ratios, bench
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError
from dni_deploy.latency.baselines.onnxruntime_cpu import OrtInputsBaseline
from dni_deploy.latency.modes import BACKEND_MODES
from dni_deploy.latency.timing import TimingSamples
from engines.cuda import driver
from tests.engines.conftest import write
from tests.engines.onnxruntime_cpu.test_calibration import calibrated
from tests.engines.trt.conftest import bn, build
from tests.fakes.gpu import FakeGpu

ON_CPU = ["in place", "constant", "rebuild", "inputs", "in graph"]
OPENVINO = ["openvino", "openvino bf16"]
TENSORRT = ["tensorrt", "trt constant", "trt inputs", "trt in graph"]
TORCH = ["torch", "torch channels last", "torch compile"]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(bn(), tmp_path / "bn.dni", members=2)


def quick(bundle: Bundle, **options: Any) -> Any:
    return bench(bundle.path, shape=(1, 3, 16, 16), repeats=2, measure_memory=False, threads=1, **options)


def test_without_a_gpu_its_rows_are_omitted_with_a_reason(bundle: Bundle) -> None:
    if driver.why_gpu_unavailable() is None:
        pytest.skip("there is a GPU here")
    report = quick(bundle, modes=[row.name for row in BACKEND_MODES if row.name not in OPENVINO])
    assert [row.name for row in report.rows] == ON_CPU
    left_out = {name: reason for name, reason in report.skipped.items() if name not in TORCH}
    assert set(left_out) == {row.name for row in BACKEND_MODES if row.on_gpu} == {*TENSORRT, "tensorrt-rtx", "ort gpu"}
    assert all("no NVIDIA driver" in reason for reason in left_out.values())
    assert set(TORCH) <= set(report.skipped)  # an architecture that the package does not know
    assert report.ratios["frame with a change / steady frame"] > 0
    assert "alpha change / plain copy of the same bytes" in report.ratios
    assert "gpu" not in report.machine


def test_a_missing_plan_names_the_build_command(bundle: Bundle, gpu: FakeGpu) -> None:
    report = quick(bundle, modes=["tensorrt", "constant"])
    assert [row.name for row in report.rows] == ["constant"]
    assert "dni-deploy build --engine tensorrt" in report.skipped["tensorrt"]
    with pytest.raises(UnavailableError, match="Nothing can be timed here; tensorrt: no plan"):
        quick(bundle, modes=["tensorrt"])


@pytest.mark.parametrize("gpu", [{"eager": True}], indirect=True)
def test_bench_rows_on_a_gpu(bundle: Bundle, gpu: FakeGpu) -> None:
    """The plans of the baselines are built like that of `tensorrt`, and not again by the next run."""
    build(bundle)
    report = quick(bundle, modes=["in place", *TENSORRT], build_baselines=True)
    rows = {row.name: row for row in report.rows}
    assert list(rows) == ["in place", *TENSORRT]
    assert rows["tensorrt"].update_path.startswith("TensorRT 11.4")
    assert rows["trt constant"].change_ms is None
    assert {
        "frame with a change / steady frame, tensorrt",
        "steady frame, tensorrt / trt constant",
        "steady frame, ours / tensorrt",
        "alpha change, tensorrt / ours",
    } <= set(report.ratios)
    assert "alpha change, trt constant / ours" not in report.ratios
    assert report.machine["gpu"] == "Fake H200"
    plans = {path: path.stat().st_mtime_ns for path in (bundle.path / "plans").iterdir()}
    assert len(plans) == len(TENSORRT)
    quick(bundle, modes=TENSORRT, build_baselines=True)
    assert {path: path.stat().st_mtime_ns for path in plans} == plans
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.slow
def test_bench_command_prints_each_reason_once(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    if driver.why_gpu_unavailable() is None:
        pytest.skip("there is a GPU here")
    from dni_deploy.cli.main import main

    assert main(["bench", str(bundle.path), "--shape", "1x3x16x16", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("no NVIDIA driver") == 1
    assert "skipped: tensorrt, tensorrt-rtx, ort gpu, trt constant, trt inputs, trt in graph: no NVIDIA driver" in out


def test_frames_are_timed_from_pixels_to_pixels_where_the_network_takes_them(bundle: Bundle) -> None:
    report = quick(bundle, modes=["in place", "constant"])
    takes_frames = bundle.signature.input_channels == 3
    assert [(row.pixels_ms or 0) > 0 for row in report.rows] == [takes_frames] * 2
    assert ("frame from pixels to pixels / steady frame" in report.ratios) == takes_frames


def test_baselines_leave_out_a_bundle_with_re_estimated_statistics(bundle: Bundle) -> None:
    """They would time another blend; constant weights are those of a member either way."""
    report = quick(calibrated(bundle), modes=ON_CPU)
    assert [row.name for row in report.rows] == ["in place", "constant"]
    assert "is calibrated" in report.skipped["inputs"]


def test_a_mode_whose_first_frame_fails_is_skipped_with_its_reason(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the network cannot be compiled; the other rows are timed."""

    def fail(self: OrtInputsBaseline, slot: int, x: Any) -> Any:
        raise EngineError("It cannot be compiled.")

    monkeypatch.setattr(OrtInputsBaseline, "infer", fail)
    steps: list[str] = []
    report = quick(bundle, modes=["in place", "inputs"], progress=lambda done, total, what: steps.append(what))
    assert steps == ["opening in place", "opening inputs", *["timing"] * 3]  # no memory is measured
    assert [row.name for row in report.rows] == ["in place"]
    assert report.skipped == {"inputs": "It cannot be compiled."}


def sample(steady: list[float]) -> TimingSamples:
    return TimingSamples(change=[1.0] * len(steady), first=[1.0] * len(steady), steady=steady)


def test_the_best_peer_is_the_fastest_of_all_of_them() -> None:
    samples = {"in place": sample([4.0, 8.0]), "openvino": sample([2.0, 4.0]), "torch compile": sample([5.0, 10.0])}
    ratios = _compute_ratios(samples)
    assert ratios["steady frame, ours / best CPU peer"] == ratios["steady frame, ours / openvino"] == 2.0
    assert "alpha change, torch compile / ours" in ratios
    assert "alpha change, openvino / ours" not in ratios
    del samples["openvino"]
    assert "steady frame, ours / best CPU peer" not in _compute_ratios(samples)


@pytest.mark.parametrize(("ours", "stock", "expected"), [(260.0, 200.0, {"memory, ours / constant": 1.3}), (None, 200.0, {})])
def test_memory_is_compared_with_the_stock_session(ours: float | None, stock: float, expected: dict[str, float]) -> None:
    rows = [ModeResult(name, "", 1, 1, 1, 1, None, memory, "") for name, memory in (("in place", ours), ("constant", stock))]
    assert _compute_memory_ratio(rows) == expected

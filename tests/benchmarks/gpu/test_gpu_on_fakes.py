"""The GPU benchmark on the fake GPU: it makes the same calls in the same order as on a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu import result as results
from benchmarks.gpu.machine import describe_machine
from benchmarks.gpu.modes import GPU_BACKEND_MODES, engine_library, select_modes
from benchmarks.gpu.prepare import prepare
from tests.fakes.gpu import FakeGpu
from tests.support.pico_architectures import pico_net


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder, "pico", title="Pico", build=lambda: pico_net("dncnn_bn"))
    return folder


@pytest.mark.parametrize("gpu", [{"eager": True}, {"seed": 3}], indirect=True)
def test_kernel_measurement_reports_copy_rate_and_errors(
    gpu: FakeGpu, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import ceilings, kernel
    from benchmarks.gpu.clock import EventClock
    from benchmarks.gpu.measurement import Measurement

    monkeypatch.setattr(ceilings.measure_copy_rate, "__defaults__", (1 << 16, 3))
    monkeypatch.setattr(kernel, "MIN_ROTATED_BYTES", 1 << 18)
    monkeypatch.setattr(kernel, "WORK_PER_MARK_S", 0.0)
    monkeypatch.setattr(ceilings, "measure_matrix_rates", lambda: {"fp16": 1e12})
    result = results.make_empty_result({"gpu": "fake"}, "c")
    with EventClock() as clock:
        Measurement(prepared, tmp_path, result, tmp_path / "o.json").kernel(["pico"], ["fp32", "fp16"], clock, large=12_800)
    stored = results.read(tmp_path / "o.json")
    assert stored["parts"][0]["ceilings"]["copy"] > 0
    assert [(figure["network"], figure["precision"], figure["members"]) for figure in stored["kernel"]] == [
        ("pico", "fp32", 2), ("pico", "fp16", 2), ("large", "fp32", 4), ("large", "fp16", 4),
    ]  # fmt: skip
    for figure in stored["kernel"]:
        assert figure["replayed_us"] is not None  # captured and replayed
        assert figure["bytes"] * figure["sets"] >= 1 << 17
        assert figure["error"] <= 1.5e-3
        assert figure["by_row_over_plain_launched"] > 0
        assert figure["by_row_over_plain_replayed"] > 0  # also captured
    assert stored["kernel"][-1]["bytes"] == 12_800 * (4 * 2 + 2)  # float16 members stay float16
    assert {goal["what"] for goal in stored["goals"]} == {figure["label"] for figure in stored["kernel"][2:]}


@pytest.mark.parametrize("gpu", ["11.4", "8.6", "rtx-1.7"], indirect=True)
@pytest.mark.slow
def test_every_engine_mode_is_built_and_timed(
    gpu: FakeGpu, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu.clock import EventClock
    from benchmarks.gpu.measurement import Measurement

    # The fake TensorRT 8.6 reads arrays of NumPy 2 correctly.
    monkeypatch.setattr("engines.trt.library.NUMPY_MAJOR_VERSION", 1)
    library, other = ("tensorrt-rtx", "tensorrt") if gpu.tensorrt.startswith("rtx") else ("tensorrt", "tensorrt-rtx")
    of_library = {mode.name for mode in GPU_BACKEND_MODES if engine_library(mode.engine or "") == library}
    result = results.make_empty_result({"gpu": "fake"}, "c")
    with EventClock() as clock:
        measurement = Measurement(prepared, tmp_path / "w", result, tmp_path / "o.json", seconds=0.05)
        measurement.build_missing = False
        measurement.cases(["pico"], [(64, 64)], ["fp32"], select_modes((library, f"{library}-constant")), clock)
        assert set(result["cases"][0]["skipped"].values()) == {"its plan was not built in the time that was given"}
        assert measurement.build(["pico"], [(64, 64)], ["fp32"], GPU_BACKEND_MODES)
        measurement.cases(["pico"], [(64, 64)], ["fp32"], GPU_BACKEND_MODES, clock)
    (case,) = results.read(tmp_path / "o.json")["cases"]  # the second run replaced the first
    rows = {row["name"]: row for row in case["rows"]}
    assert set(rows) == of_library
    assert len(rows) == 7
    assert case["skipped"][f"{other}-graph"].startswith(f"{other.replace('-', '_')} not installed")
    for name, row in rows.items():
        assert row["agreement"]["error"] <= 1e-5, name  # ONNX Runtime against float64
        assert row["agreement"]["returns"] in (True, None), name
        assert row["steady_ms"] > 0, name
    assert rows[f"{library}-constant"]["change_ms"] is None
    assert {"torch-eager", "onnxruntime-gpu"} <= set(case["skipped"])
    text = results.format_short_table(results.read(tmp_path / "o.json"))
    assert "not run: this torch sees no GPU: torch-eager, torch-graph, torch-compile, torch-autotune" in text


@pytest.mark.parametrize("gpu", ["rtx-1.7"], indirect=True)
def test_machine_names_a_library_that_was_unpacked(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = describe_machine()
    assert facts["gpu"] == "Fake H200"
    assert facts["tensorrt-rtx"] == "1.7.1.116"
    assert "onnxruntime-gpu" not in facts
    metadata = tmp_path / "tensorrt_rtx_cu13_bindings-1.7.2.dist-info" / "METADATA"  # read first, without an import
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: tensorrt_rtx_cu13_bindings\nVersion: 1.7.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert describe_machine()["tensorrt-rtx"] == "1.7.2"

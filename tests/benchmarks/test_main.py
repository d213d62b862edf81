"""The CPU benchmark's command: a run that is stopped keeps the networks that it has measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as command
from dni_deploy.api.bench import BenchReport, ModeResult


def make_report(bundle: Path, **_: Any) -> BenchReport:
    row = ModeResult("in place", "ours", 1.0, 2.0, 3.0, 2.0, None, None, "in place")
    machine = {
        "cpu": "c",
        "cores": "2",
        "instruction sets": "avx2",
        "onnxruntime": "1",
        "numpy": "2",
        "python": "3",
        "date": "d",
    }
    return BenchReport(
        bundle.name, "a", 2, 10, (1, 3, 8, 8), 3, 1, machine, (row,), {"some ratio": 1.25}, {"openvino": "absent"}
    )


@pytest.fixture
def result_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "CPU_RESULT_PATH", tmp_path / "results" / "cpu.json")
    monkeypatch.setattr(command, "GPU_RESULT_PATH", tmp_path / "results" / "gpu.json")
    monkeypatch.setattr(command, "family", lambda name: {})
    monkeypatch.setattr(command, "export", lambda *_, **__: None)
    return tmp_path / "results" / "cpu.json"


def test_a_stopped_run_keeps_the_networks_it_has_measured(result_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the page has a plot, which needs the extra `report`")

    def bench(bundle: Path, **options: Any) -> BenchReport:
        if bundle.name == "rrdb.dni":
            raise KeyboardInterrupt
        options["progress"](1, 4, "timing")
        return make_report(bundle)

    monkeypatch.setattr(command, "bench", bench)
    run = CliRunner().invoke(command.main, [])
    assert run.exit_code != 0
    assert list(json.loads(result_path.read_text())["networks"]) == ["dncnn", "compact"]
    page = (result_path.parent.parent / "docs" / "benchmarks.md").read_text()
    assert "Compact 64x16" in page
    assert "RRDBNet" not in page
    assert "timing (2 of 4)" in run.output
    assert "not run: openvino, absent" in run.output


def test_named_networks_are_printed_and_not_saved(result_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "bench", make_report)
    run = CliRunner().invoke(command.main, ["rrdb"])
    assert run.exit_code == 0
    assert "some ratio" in run.output
    assert not result_path.exists()

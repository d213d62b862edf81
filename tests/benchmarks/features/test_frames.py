"""The benchmark of frames runs and reports every ratio; no frame has another frame's alpha."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("av")
pytest.importorskip("torch")


@pytest.mark.slow
def test_frame_benchmark_reports_every_ratio(tmp_path: Path) -> None:
    from benchmarks.features.frames import CONVERSIONS, main

    output = tmp_path / "frames.json"
    run_result = CliRunner().invoke(main, ["--rounds", "1", "--frames", "10", "-o", str(output)])
    assert run_result.exit_code == 0, run_result.output
    result = json.loads(output.read_text())
    assert set(result["conversion around the network"]) == set(CONVERSIONS)
    compact = result["Compact 24x8, x2, 640x360"]
    comparisons = [*result["conversion around the network"].values(), compact["steady"], compact["an alpha for every frame"]]
    comparisons.append(result["Compact 24x8, x2, 640x360, video"])
    assert all(way["seconds"] > 0 for comparison in comparisons for way in comparison["ways"].values())
    assert result["an alpha for each of 16 threads"] == {"viewers": 16, "frames": 16_000, "wrong": 0}

"""The video benchmark runs and reports every ratio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("av")
pytest.importorskip("torch")


@pytest.mark.slow
def test_video_benchmark_reports_every_ratio(tmp_path: Path) -> None:
    from benchmarks.features.film import main

    output = tmp_path / "film.json"
    run_result = CliRunner().invoke(main, ["--rounds", "1", "--frames", "10", "-o", str(output)])
    assert run_result.exit_code == 0, run_result.output
    result = json.loads(output.read_text())
    large, small = result["720p"]["ways"], result["Compact 24x8, x2, 320x180"]["ways"]
    assert set(large) == {"decode and encode", "an effect that does nothing", "a network that does nothing"}
    assert large["decode and encode"]["over decode and encode"] == [1.0, 1.0, 1.0]
    assert all(mode["seconds"] > 0 for mode in (*large.values(), *small.values()))

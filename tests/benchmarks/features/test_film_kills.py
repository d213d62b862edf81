"""The benchmark that kills a job of two films runs and reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("av")


@pytest.mark.slow
def test_kill_benchmark_compares_with_the_run_that_was_left_alone(tmp_path: Path) -> None:
    from benchmarks.features.film_kills import main

    output = tmp_path / "film_kills.json"
    run_result = CliRunner().invoke(main, ["--kills", "2", "-o", str(output)])
    assert run_result.exit_code == 0, run_result.output
    result = json.loads(output.read_text())
    assert result["byte-equal after resuming"] == result["kills"] == 2
    assert result["partial outputs after a kill"] == 0
    assert sum(result["state when killed"].values()) == 2

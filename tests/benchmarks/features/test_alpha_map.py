"""The benchmark of alpha maps runs and reports every ratio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")


@pytest.mark.slow
def test_alpha_map_benchmark_reports_every_ratio(tmp_path: Path) -> None:
    from benchmarks.features.alpha_map import main

    output = tmp_path / "alpha_map.json"
    run_result = CliRunner().invoke(main, ["--rounds", "1", "--side", "32", "-o", str(output)])
    assert run_result.exit_code == 0, run_result.output
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 3
    for row in rows.values():
        assert row["plain ms"] > 0
        assert row["half"]["levels"] == 2
        assert 1 <= row["half"]["work"] <= 2
        assert all(ratio > 0 for ratio in row["half"]["over plain"])

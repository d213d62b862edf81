"""The benchmark of alpha maps runs whole and tells every ratio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")


@pytest.mark.slow
def test_it_runs_whole(tmp_path: Path) -> None:
    from benchmarks.features.alpha_map import main

    output = tmp_path / "alpha_map.json"
    done = CliRunner().invoke(main, ["--rounds", "1", "--side", "32", "-o", str(output)])
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 3
    for row in rows.values():
        assert row["plain ms"] > 0
        assert row["half"]["levels"] == 2
        assert 1 <= row["half"]["work"] <= 2
        assert all(ratio > 0 for ratio in row["half"]["over plain"])

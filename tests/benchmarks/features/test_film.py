"""The video benchmark runs whole and tells every ratio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("av")
pytest.importorskip("torch")


@pytest.mark.slow
def test_it_runs_whole(tmp_path: Path) -> None:
    from benchmarks.features.film import main

    output = tmp_path / "film.json"
    done = CliRunner().invoke(main, ["--rounds", "1", "--frames", "10", "-o", str(output)])
    assert done.exit_code == 0, done.output
    found = json.loads(output.read_text())
    large, small = found["720p"]["ways"], found["Compact 24x8, x2, 320x180"]["ways"]
    assert set(large) == {"decode and encode", "an effect that does nothing", "a network that does nothing"}
    assert large["decode and encode"]["over decode and encode"] == [1.0, 1.0, 1.0]
    assert all(way["seconds"] > 0 for way in (*large.values(), *small.values()))

"""The benchmark of folders runs and reports every ratio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")


@pytest.mark.slow
def test_folder_benchmark_reports_every_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.features import folders

    monkeypatch.setattr(folders, "NETWORKS", {"Compact 8x2, x2": (8, 2, 1)})
    monkeypatch.setattr(folders, "FULL_FOLDER_NAMES", 200)
    output = tmp_path / "folders.json"
    run_result = CliRunner().invoke(folders.main, ["--images", "10", "--names", "500", "-o", str(output)])
    assert run_result.exit_code == 0, run_result.output
    result = json.loads(output.read_text())
    assert set(result["encoders, 1024x1024"]) == set(folders.ENCODINGS)
    assert result["planning"]["names"] == 500
    compact = result["Compact 8x2, x2"]
    assert compact["images"] == 10
    assert set(compact["ways"]) == {"network alone", "run to png", "run to webp", "run to jpg"}
    for comparison in (compact, result["files in a folder"]["ours"]):
        assert all(way["cpu_seconds"] > 0 for way in comparison["ways"].values())

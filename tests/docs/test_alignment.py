"""docs/alignment.md: its Python block runs, and the figures of its tables are the measured ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("torch", reason="the bundle is exported by PyTorch (extra `export`)")
from tests.support.pico_architectures import pico_family

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "alignment.md").read_text(encoding="utf-8")


def test_documented_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, state in zip("AB", pico_family("compact_x2", 2), strict=True):
        save_file({key: np.ascontiguousarray(value) for key, value in state.items()}, f"{name}.pth")
    [block] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(block, {})
    assert (tmp_path / "x.dni" / "manifest.json").is_file()


def test_the_tables_have_the_measured_figures() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "alignment.json").read_bytes())["pairs"]
    expected = []
    for row in rows:
        before, after = (f"{value:.3f}" for value in row["likeness"])
        figures = [before] if before == after else [before, after]
        figures += [f"{value:.2f}" for value in (*row["ends_db"], row["halfway_db"], row["aligned_halfway_db"])]
        if row["kind"] == "permuted":
            assert row["is_exact"]
            expected.append([*figures, f"{row['halfway_before_permuting_db']:.2f}"])
        else:
            expected.append([*figures, str(row["moved"]), str(row["channels"])])
    tables = [line.split("|", 2)[2] for line in PAGE.splitlines() if re.match(r"\| .* \| 0\.\d{3}", line)]
    assert sorted(re.findall(r"\d+(?:\.\d+)?", line) for line in tables) == sorted(expected)

"""docs/architectures.md is made from the stored result, and its table is of networks that can be built."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_result_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate_architectures.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_rows_are_networks_of_the_benchmark_and_none_differs_from_pytorch() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "spandrel.json").read_text(encoding="utf-8"))["rows"]
    source = (ROOT / "benchmarks" / "features" / "spandrel_networks.py").read_text(encoding="utf-8")
    assert all(f'"{name}": (' in source for name in rows)
    assert not [name for name, row in rows.items() if row["exports"] and row["error"] > 1e-4]
    assert all(row["reason"] for row in rows.values() if not row["exports"])

"""docs/performance.md: its figures are those of the benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text(encoding="utf-8"))["networks"]
LIVE = json.loads((ROOT / "benchmarks" / "results" / "page.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("network", RESULTS.values(), ids=RESULTS.keys())
def test_each_network_has_the_measured_times(network: dict) -> None:  # type: ignore[type-arg]
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {re.match('[A-Za-z]+', network['title'])[0]}")]  # type: ignore[index]
    own = next(result for result in network["rows"] if result["name"] == "in place")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    height, width = network["shape"][2:]
    assert cells[1] == f"{width} x {height}"
    assert float(cells[2].removesuffix(" M")) == pytest.approx(network["parameters"] / 1e6, rel=0.01)
    assert float(cells[3].removesuffix(" ms")) == pytest.approx(own["steady_ms"], rel=0.01)
    assert float(cells[4].removesuffix(" ms")) == pytest.approx(own["change_ms"], rel=0.03)


def test_the_live_page_has_the_measured_times() -> None:
    latency, rates = LIVE["latency"], LIVE["rate"]["frames_per_second"]
    for figure in (latency["frame_ms"], latency["p50_ms"], latency["p95_ms"]):
        assert f"{round(figure)} ms" in PAGE
    assert f"{round(min(rates))} to {round(max(rates))} frames a second" in PAGE

"""The goals of the CPU page: which are shown, and whether they are reached."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the page has a plot, which needs the extra `report`")
from benchmarks.networks import NETWORKS
from benchmarks.page import CPU_GOALS, page

MACHINE = {"cpu": "c", "cores": "2", "instruction sets": "avx2", "onnxruntime": "1", "numpy": "2", "python": "3", "date": "d"}


def make_result(ratios: dict[str, float]) -> dict[str, Any]:
    report = {"machine": MACHINE, "ratios": ratios, "shape": [1], "parameters": 1, "members": 2, "rounds": 3, "threads": 1}
    return {"commit": "abc", "networks": {"rrdb": {"title": "RRDB", "rows": [], "skipped": {}, **report}}}


@pytest.mark.parametrize(("value", "mark"), [(0.99, "0.99"), (1.01, "**1.01**, not reached")])
def test_the_frame_is_held_against_the_best_peer(value: float, mark: str) -> None:
    text = page(make_result({"steady frame, ours / best CPU peer": value}))
    assert f"| steady frame, ours / best CPU peer (OpenVINO f32, torch.compile) | RRDB | at most 1 | {mark} |" in text


def test_memory_is_held_against_the_stock_session() -> None:
    text = page(make_result({"memory, ours / constant": 2.05}))
    assert "| memory, ours / stock constant-weight session | RRDB | at most 1.3 | **2.05**, not reached |" in text


def test_a_goal_without_a_figure_is_not_shown() -> None:
    assert "at most" not in page(make_result({}))


@pytest.mark.parametrize("ratio", ["steady frame, ours / best CPU peer", "steady frame, ours / constant"])
def test_every_network_is_to_be_as_fast_as_peers_and_stock_sessions(ratio: str) -> None:
    goals = next(goals for _, name, _, goals in CPU_GOALS if name == ratio)
    assert set(goals) == set(NETWORKS)
    assert all(goal <= 1 for goal in goals.values())

"""Timing: what is measured, in which order, and that a busy machine affects all engines alike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.latency import timing
from dni_deploy.latency.modes import BackendMode
from dni_deploy.latency.timing import compute_median_ratio, time_interleaved
from tests.engines.conftest import write
from tests.support.handmade_graphs import HAND

X = np.zeros((1, 1, 2, 2), np.float32)


class Counting:
    """An engine that records the order of its calls."""

    name = update_path = "counting"
    slots = 1

    def __init__(self) -> None:
        self.calls: list[str] = []

    def refit(self, slot: int, coefficients: Any) -> None:
        self.calls.append("refit")

    def synchronize(self, slot: int) -> None:
        self.calls.append("finish")

    def infer(self, slot: int, x: Any) -> Any:
        self.calls.append("infer")
        return x

    def close(self) -> None:
        pass


def test_a_refit_is_timed_until_its_work_has_finished() -> None:
    """On a GPU a refit returns while its work is still queued; the next frame must not be charged for it."""
    engine = Counting()
    samples = time_interleaved({"a": engine}, {}, X, 2, 3)  # type: ignore[dict-item]
    assert engine.calls == ["refit", *["infer", "refit", "finish", "infer", "infer"] * 4]
    assert len(samples["a"].change) == len(samples["a"].steady) == 3


def test_every_engine_gets_the_same_alphas_and_is_first_equally_often() -> None:
    calls: list[tuple[str, Any]] = []

    class Named(Counting):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.own_name = name

        def refit(self, slot: int, coefficients: Any) -> None:
            calls.append((self.own_name, tuple(coefficients)))

    samples = time_interleaved({name: Named(name) for name in "ab"}, {"a": lambda: None}, X, 3, 3)  # type: ignore[misc]
    rounds = calls[2:]  # after the refit of each engine before the first round
    assert [name for name, _ in rounds] == list("abbaabba")
    assert all(rounds[index][1] == rounds[index + 1][1] for index in range(0, 8, 2))
    assert len({alpha for _, alpha in rounds}) == 4
    assert len(samples["a"].copy) == 3
    assert not samples["b"].copy


def test_a_ratio_is_computed_within_each_round() -> None:
    """A round that is slow for both engines does not change the ratio."""
    assert compute_median_ratio([2.0, 200.0, 2.0], [1.0, 100.0, 1.0]) == pytest.approx(2.0)


def test_memory_is_read_after_the_packages_of_the_mode_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write(HAND["conv_bn"](), tmp_path / "x.dni")
    mode = BackendMode("counting", "", lambda bundle, options: Counting(), lambda bundle: None, module="wave")  # type: ignore[arg-type,return-value]
    loaded: list[bool] = []

    def measure_resident_bytes() -> int:
        loaded.append("wave" in sys.modules)
        return 100 * len(loaded)

    monkeypatch.delitem(sys.modules, "wave", raising=False)
    monkeypatch.setattr(timing, "BACKEND_MODES", (mode,))
    monkeypatch.setattr(timing, "measure_resident_bytes", measure_resident_bytes)
    assert timing._measure_memory_growth(str(bundle.path), "counting", (1, 3, 8, 8), 1) == 100
    assert loaded == [True, True]

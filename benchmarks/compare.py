"""Times several ways of doing the same in turn, so that a machine that is slow for a while is slow for all of them."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any


def make_timer(run_once: Callable[[], object]) -> Callable[[], float]:
    """Wraps a function so that it returns the seconds it took."""

    def run() -> float:
        started = time.perf_counter()
        run_once()
        return time.perf_counter() - started

    return run


def compare_times(modes: dict[str, Callable[[], float]], rounds: int, *, over: str) -> dict[str, Any]:
    """Times the modes in turn, round by round; the first round is a warm-up.

    Args:
        modes: By name, a function that runs the mode once and returns its seconds.
        rounds: Rounds that count.
        over: Name of the mode that the others are divided by.

    Returns:
        For each mode, the median seconds and the median, smallest and largest ratio to the mode `over`.
    """
    times: dict[str, list[float]] = {name: [] for name in modes}
    load = os.getloadavg()[0]
    names = list(modes)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds = modes[name]()
            if number:
                times[name].append(seconds)
        print(f"round {number} of {rounds}", file=sys.stderr)
    result: dict[str, Any] = {"rounds": rounds, "load_before": round(load, 2), "ways": {}}
    for name, series in times.items():
        ratios = [one / other for one, other in zip(series, times[over], strict=True)]
        result["ways"][name] = {
            "seconds": round(statistics.median(series), 5),
            f"over {over}": [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))],
        }
    return result

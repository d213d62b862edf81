"""Network distance of known pairs, the exact shortest path, and noise distinguished from training."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest

from dni_deploy.compatibility.distance import measure_network_distance, measure_whiteness, order_by_shortest_path


def test_distance_of_equal_unrelated_and_flipped_networks() -> None:
    random = np.random.default_rng(0)
    state = {f"{layer}.weight": random.standard_normal((64, 64, 3, 3)) for layer in "ab"}
    other = {f"{layer}.weight": random.standard_normal((64, 64, 3, 3)) for layer in "ab"}
    assert measure_network_distance(state, state) == 0
    assert measure_network_distance(state, other) == pytest.approx(1, abs=0.01)  # 1 / sqrt(73,728 numbers) is 0.004
    assert measure_network_distance(state, {key: -value for key, value in state.items()}) == pytest.approx(np.sqrt(2))
    half = {key: (value + other[key]) / 2 for key, value in state.items()}
    moved = {**state, "a.running_mean": np.ones(64)}
    assert measure_network_distance(moved, {**moved, "a.running_mean": np.zeros(64)}) == 0  # measured, not learned
    assert measure_network_distance(state, half) < measure_network_distance(state, other)


def test_shortest_path_is_the_shortest() -> None:
    for seed in range(20):
        points = np.random.default_rng(seed).random((6, 3))
        table = np.linalg.norm(points[:, None] - points[None], axis=2)
        best = min(sum(table[a, b] for a, b in pairwise(path)) for path in permutations(range(6)))
        path = order_by_shortest_path(table)
        assert sorted(path) == list(range(6))
        assert sum(table[a, b] for a, b in pairwise(path)) == pytest.approx(best, rel=1e-12)  # another order of a float64 sum
        assert path[0] < path[-1]


def test_whiteness_distinguishes_noise_from_training() -> None:
    random = np.random.default_rng(0)
    state = {"w": random.standard_normal((64, 32, 3, 3))}
    noisy = {"w": state["w"] + 0.1 * random.standard_normal(state["w"].shape)}
    trained = {"w": state["w"] + np.einsum("i,jkl->ijkl", random.standard_normal(64), random.standard_normal((32, 3, 3)))}
    assert measure_whiteness(state, noisy, {"w": 0}) == pytest.approx(1, abs=0.05)
    assert (measure_whiteness(state, trained, {"w": 0}) or 0) > 5
    assert measure_whiteness(state, state, {"w": 0}) is None

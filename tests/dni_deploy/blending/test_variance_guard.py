"""Variances stay positive: the safe interval, and the refusal outside it."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.blending.variance_guard import VarianceGuard, compute_safe_interval, list_variance_names
from dni_deploy.errors import CoefficientsError, MismatchError
from tests.support import pico_bundle as pico


def test_safe_interval_against_a_scan() -> None:
    random = np.random.default_rng(11)
    first, second = random.uniform(0.01, 2, (2, 50))
    low, high = compute_safe_interval([first, second])
    for alpha in np.linspace(-3, 4, 7001):
        positive = bool((alpha * first + (1 - alpha) * second > 0).all())
        assert positive == (low < alpha < high)
    assert compute_safe_interval([np.ones(3), np.ones(3)]) == (-np.inf, np.inf)
    assert compute_safe_interval([np.zeros(0), np.zeros(0)]) == (-np.inf, np.inf)
    # A channel that is dead in both members is dead at every alpha; dead in one, it limits the interval.
    assert compute_safe_interval([np.array([0.0]), np.array([0.0])]) == (-np.inf, np.inf)
    assert compute_safe_interval([np.array([0.0]), np.array([1.0])]) == (-np.inf, 1.0)
    with pytest.raises(MismatchError):
        compute_safe_interval([first])


def test_variance_guard_finds_variances_by_key_and_by_graph() -> None:
    graph = pico.graph()
    assert list_variance_names(pico.SHAPES) == ("bn.running_var",)
    for initializer in graph.graph.initializer:
        if initializer.name == "bn.running_var":
            initializer.name = "statistics"
    graph.graph.node[1].input[4] = "statistics"
    assert list_variance_names(["conv.weight", "statistics"], graph) == ("statistics",)
    assert list_variance_names(["conv.weight", "statistics"]) == ()


def test_variance_guard_of_three_members_and_without_batchnorm() -> None:
    members = [{"n.running_var": np.array([value, 1.0])} for value in (1.0, 2.0, 4.0)]
    guard = VarianceGuard(members, ["n.running_var"])
    names = ("a", "b", "c")
    guard.check(Coefficients.parse([0, 0.5, 0.5], names))
    guard.check(Coefficients.parse([1.2, -0.1, -0.1], names, extrapolate=True))
    with pytest.raises(CoefficientsError, match=r"'n\.running_var', channel 0, would be -1"):
        guard.check(Coefficients.parse([2, -0.5, -0.5], names, extrapolate=True))
    assert guard.compute_safe_interval() is None
    VarianceGuard([{}, {}], []).check(Coefficients.parse(5, ("a", "b"), extrapolate=True))


def test_a_variance_of_zero_is_refused_unless_it_is_always_zero() -> None:
    names = ("a", "b")
    members = [{"n.running_var": np.array([1.0, 0.0])}, {"n.running_var": np.array([0.5, 0.0])}]
    guard = VarianceGuard(members, ["n.running_var"])
    with pytest.raises(CoefficientsError, match="channel 0, would be 0"):
        guard.check(Coefficients.parse(-1.0, names, extrapolate=True))
    guard.check(Coefficients.parse(-0.75, names, extrapolate=True))


def test_a_share_below_zero_counts_although_none_is_above_one() -> None:
    members = [{"n.running_var": np.array([value])} for value in (9.0, 1.0, 1.0)]
    with pytest.raises(CoefficientsError, match="would be -0"):
        VarianceGuard(members, ["n.running_var"]).check(Coefficients.parse([-0.2, 0.6, 0.6], ("a", "b", "c"), extrapolate=True))


def test_coefficients_that_differ_from_weight_to_weight_are_checked() -> None:
    members = [{"m.running_var": np.array([1.0, 4.0]), "n.running_var": np.array([value])} for value in (1.0, 2.0)]
    guard, base = VarianceGuard(members, ["m.running_var", "n.running_var"]), Coefficients.parse(0.5, ("a", "b"))
    good = {"m.running_var": np.array([2.0, -1.0]), "n.running_var": np.array([0.0, 1.0]), "conv.weight": np.array([3.0, -2.0])}
    guard.check_per_tensor(good, base)
    with pytest.raises(CoefficientsError, match=r"'n\.running_var', channel 0, would be -1"):
        guard.check_per_tensor({**good, "n.running_var": np.array([3.0, -2.0])}, base)

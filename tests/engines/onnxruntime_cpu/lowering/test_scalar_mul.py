"""A Mul by a scalar: into the convolution before it where that is its own, else a depthwise convolution or none."""

from __future__ import annotations

import pytest

from engines.lowering.graph_rewriter import GraphRewriter
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.lowering import scalar_mul
from tests.support.handmade_graphs import Hand


@pytest.fixture(autouse=True)
def blocks_of_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "measure_block_size", lambda: 16)


def rewrite(hand: Hand, y: str) -> GraphRewriter:
    case = hand.case(y)
    rewriter = GraphRewriter.from_graph(case.graph, case.weights)
    rewriter.apply(scalar_mul.rewrite)
    return rewriter


def test_weight_and_bias_of_the_convolution_take_the_factor() -> None:
    hand = Hand()
    rewriter = rewrite(hand, hand.times(hand.times(hand.conv("x", 16, weight="c"), 0.5), 0.25))
    assert [node.op_type for node in rewriter.nodes] == ["Conv"]
    assert {name: recipe.factor for name, recipe in rewriter.recipes.linear.items()} == {"c.weight": 0.125, "c.bias": 0.125}


def test_a_convolution_that_is_read_twice_keeps_its_weights() -> None:
    hand = Hand()
    first = hand.conv("x", 16)
    rewriter = rewrite(hand, hand.node("Add", [hand.times(first, 0.5), first]))
    assert [node.op_type for node in rewriter.nodes] == ["Conv", "Conv", "Add"]
    assert {recipe.factor for recipe in rewriter.recipes.linear.values()} == {1.0}


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_a_factor_that_is_not_finite_stays(factor: float) -> None:
    hand = Hand()
    assert [node.op_type for node in rewrite(hand, hand.times(hand.conv("x", 16), factor)).nodes] == ["Conv", "Mul"]


def test_it_stays_outside_the_blocked_layout() -> None:
    hand = Hand()
    y = hand.times(hand.node("Relu", [hand.conv("x", 24)]), 0.5)
    assert [node.op_type for node in rewrite(hand, y).nodes] == ["Conv", "Relu", "Mul"]

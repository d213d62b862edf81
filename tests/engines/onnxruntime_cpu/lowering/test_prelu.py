"""PRelu as two depthwise convolutions: only where the blocked layout can hold it, and linear in the slope."""

from __future__ import annotations

import pytest

from engines.lowering.graph_rewriter import GraphRewriter
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.lowering import prelu
from tests.support.handmade_graphs import Hand


def rewrite(channels: int, slopes: int = 0) -> GraphRewriter:
    hand = Hand()
    case = hand.case(hand.conv(hand.prelu(hand.conv("x", channels), slopes, name="act"), 3))
    rewriter = GraphRewriter.from_graph(case.graph, case.weights)
    rewriter.apply(prelu.rewrite)
    return rewriter


@pytest.fixture(autouse=True)
def blocks_of_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "measure_block_size", lambda: 16)


@pytest.mark.parametrize("slopes", [0, 1])
def test_the_gain_is_one_minus_the_slope(slopes: int) -> None:
    rewriter = rewrite(32, slopes)
    assert [node.op_type for node in rewriter.nodes] == ["Conv", "Reshape", "Conv", "Relu", "Conv", "Add", "Conv"]
    recipe = rewriter.recipes.linear["act.weight@gain x32"]
    assert (recipe.source, recipe.factor, recipe.offset, recipe.shape) == ("act.weight", -1.0, 1.0, (32, 1, 1, 1))


def test_it_stays_where_channels_do_not_fill_blocks() -> None:
    assert "PRelu" in [node.op_type for node in rewrite(24).nodes]

"""The pass that makes initializers of Constant nodes."""

from __future__ import annotations

import numpy as np
import onnx

from tests.engines.lowering.conftest import check
from tests.support.handmade_graphs import Hand


def test_constant_nodes_are_constants_like_others(precision: str) -> None:
    """A Reshape's shape, a factor and a Clip's bound, written as nodes."""
    hand = Hand()
    hand.width[""] = 0
    shape = hand.node("Constant", [""], value_ints=[-1, 1, 1])
    factor = hand.node("Constant", [""], value_float=0.5)
    bound = hand.node("Constant", [""], value=onnx.numpy_helper.from_array(np.array(0.25, np.float32)))
    for node in hand.nodes:
        del node.input[:]
    gain = hand.node("Reshape", [hand.weight("gain", (3,), 0.5, 1.5), shape], 3)
    y = hand.node("Clip", [hand.node("Mul", [hand.node("Mul", ["x", gain]), factor]), "", bound])
    lowered = check(hand.case(y), precision)
    assert [node.op_type for node in lowered.graph.graph.node if node.op_type != "Cast"] == ["Mul", "Mul", "Clip"]
    assert [weight.shape for weight in lowered.weights] == [(1, 3, 1, 1)]

"""The weight layout pass: what stands between a weight and its consumer goes into the recipe."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from engines.lowering.gpu import lower_for_gpu
from tests.engines.conftest import Case
from tests.engines.lowering.conftest import check
from tests.support.handmade_graphs import Hand


def test_slopes_of_a_prelu(pico_case: Callable[[str], Case]) -> None:
    lowered = lower_for_gpu(pico_case("compact").graph, pico_case("compact").weights, "fp32")
    shapes = {weight.name: weight.shape for weight in lowered.weights}
    slopes = [node.input[1] for node in lowered.graph.graph.node if node.op_type == "PRelu"]
    assert slopes == ["body.1.weight", "body.3.weight", "body.5.weight", "body.7.weight"]
    assert {shapes[name] for name in slopes} == {(1, 8, 1, 1)}


def linear() -> tuple[Hand, str]:
    """x (n, 6) times a weight (10, 6) that is transposed and reshaped before it is used, as an exporter writes a linear layer."""
    hand = Hand(6)
    weight = hand.weight("fc.weight", (10, 6), -0.5, 0.5)
    moved = hand.node("Transpose", [hand.node("Identity", [weight], 10)], 10, perm=[1, 0])
    shape = hand.constant("shape", np.array([0, -1], np.int64))
    moved = hand.node("Cast", [hand.node("Reshape", [moved, shape], 10)], 10, to=int(TensorProto.FLOAT))
    y = hand.node("MatMul", ["x", moved], 10)
    return hand, hand.node("Add", [y, hand.weight("fc.bias", (10,), -0.5, 0.5)], 10)


def test_a_transposed_weight(precision: str) -> None:
    hand, y = linear()
    lowered = check(hand.case(y, rank=2), precision)
    assert [node.op_type for node in lowered.graph.graph.node if node.op_type != "Cast"] == ["MatMul", "Add"]
    assert {weight.name: weight.shape for weight in lowered.weights} == {"fc.weight": (6, 10), "fc.bias": (1, 10)}
    assert lowered.recipes.linear["fc.weight"].permutation == (1, 0)


def test_a_weight_in_two_forms(precision: str) -> None:
    """As it is and transposed: two weights from one tensor."""
    hand = Hand(6)
    weight = hand.weight("w", (6, 6), -0.5, 0.5)
    first = hand.node("MatMul", ["x", weight], 6)
    lowered = check(hand.case(hand.node("MatMul", [first, hand.node("Transpose", [weight], 6)], 6), rank=2), precision)
    assert [node.op_type for node in lowered.graph.graph.node if node.op_type != "Cast"] == ["MatMul", "MatMul"]
    assert [weight.name for weight in lowered.weights] == ["w", "w@form 1"]


def test_axes_that_come_and_go(precision: str) -> None:
    hand = Hand()
    one = hand.constant("axes", np.array([1, 2], np.int64))
    wide = hand.node("Unsqueeze", [hand.weight("scale", (3,), 0.5, 1.5), one], 3)
    moved = hand.node("Transpose", [hand.node("Unsqueeze", [hand.weight("shift", (3,), 0.5, 1.5), one], 3)], 3, perm=[0, 2, 1])
    y = hand.node("Add", [hand.node("Mul", [hand.conv("x", 3), wide]), moved])
    lowered = check(hand.case(y), precision)
    shapes = {weight.name: weight.shape for weight in lowered.weights}
    assert shapes["scale"] == shapes["shift"] == (1, 3, 1, 1)
    assert lowered.recipes.linear["shift"].permutation is None


def test_a_shuffled_weight_keeps_its_nodes(precision: str) -> None:
    """A transposition of split axes is more than a recipe can say; the graph then does it itself."""
    hand = Hand()
    weight = hand.weight("w", (8, 3, 3, 3), -0.3, 0.3)
    split = hand.node("Reshape", [weight, hand.constant("split", np.array([2, 4, 3, 3, 3], np.int64))], 8)
    swapped = hand.node("Transpose", [split], 8, perm=[1, 0, 2, 3, 4])
    joined = hand.node("Reshape", [swapped, hand.constant("join", np.array([8, 3, 3, 3], np.int64))], 8)
    lowered = check(hand.case(hand.node("Conv", ["x", joined], 8, kernel_shape=[3, 3], pads=[1] * 4)), precision)
    assert [node.op_type for node in lowered.graph.graph.node if node.op_type != "Cast"] == ["Transpose", "Reshape", "Conv"]

"""The float16 pass: what stays float32, and weights and constants that are read in both types."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto

from engines.lowering.gpu import lower_for_gpu
from tests.engines.conftest import Case
from tests.engines.lowering.conftest import check, types_of
from tests.support.handmade_graphs import Hand


@pytest.mark.parametrize("precision", ["fp16"])
def test_an_ordinary_network_has_one_cast_at_each_end(pico_case: Callable[[str], Case], precision: str) -> None:
    for name in ("srcnn_959", "dncnn_bn", "rrdbnet", "rrdbnet_x2", "compact", "cyclegan_bn", "dcgan"):
        case = pico_case(name)
        nodes = lower_for_gpu(case.graph, case.weights, precision).graph.graph.node
        casts = [node for node in nodes if node.op_type == "Cast"]
        assert len(casts) == 2, name
        assert list(casts[0].input) == ["x"]
        assert list(casts[1].output) == ["y"]


def test_instance_norms_stay_float32(pico_case: Callable[[str], Case]) -> None:
    case = pico_case("transformer_net")
    lowered = lower_for_gpu(case.graph, case.weights, "fp16")
    types = types_of(lowered.graph)
    norms = [node for node in lowered.graph.graph.node if node.op_type == "InstanceNormalization"]
    assert len(norms) == 7
    assert {types[name] for node in norms for name in (*node.input, *node.output)} == {TensorProto.FLOAT}
    dtypes = {weight.name: weight.dtype for weight in lowered.weights}
    assert {dtypes[name] for node in norms for name in node.input[1:]} == {np.dtype(np.float32)}
    assert {dtypes[node.input[1]] for node in lowered.graph.graph.node if node.op_type == "Conv"} == {np.dtype(np.float16)}


def test_a_weight_that_both_precisions_read() -> None:
    hand = Hand()
    scale = hand.weight("scale", (3,), 0.5, 1.5)
    zeros = hand.constant("zeros", np.zeros(3, np.float32))
    first = hand.node("InstanceNormalization", [hand.conv("x", 3), scale, zeros])
    lowered = check(hand.case(hand.conv(hand.node("Conv", [first, hand.weight("w", (3, 3, 1, 1), -1, 1), scale]), 3)), "fp16")
    assert {w.name: w.dtype for w in lowered.weights if "scale" in w.name} == {
        "scale": np.dtype(np.float32),
        "scale@float16": np.dtype(np.float16),
    }


@pytest.mark.parametrize("bound", [70000.0, 1e-8, np.inf])
def test_a_constant_that_float16_cannot_hold_keeps_its_node_in_float32(bound: float) -> None:
    hand = Hand()
    limit = hand.constant("limit", np.array(bound, np.float32))
    lowered = check(hand.case(hand.conv(hand.node("Clip", [hand.conv("x", 8), "", limit]), 3)), "fp16")
    clip = next(node for node in lowered.graph.graph.node if node.op_type == "Clip")
    assert types_of(lowered.graph)[clip.input[2]] == TensorProto.FLOAT
    assert types_of(lowered.graph)[clip.input[0]] == TensorProto.FLOAT


def test_bounds_of_a_clip_are_constants_of_its_type() -> None:
    hand = Hand()
    bounds = [hand.constant("low", np.array(0.0, np.float32)), hand.constant("high", np.array(0.5, np.float32))]
    lowered = check(hand.case(hand.conv(hand.node("Clip", [hand.conv("x", 8), *bounds]), 3)), "fp16")
    clip = next(node for node in lowered.graph.graph.node if node.op_type == "Clip")
    assert list(clip.input[1:]) == ["low", "high"]
    assert {types_of(lowered.graph)[name] for name in clip.input} == {TensorProto.FLOAT16}


def test_arithmetic_on_shapes_stays_float32() -> None:
    """A Resize to 3/2 of the size, computed in the graph: float16 would be off by pixels from 2048 on."""
    hand = Hand()
    shape = hand.node("Slice", [hand.node("Shape", ["x"]), *(hand.constant(f"s{n}", np.array([n], np.int64)) for n in (2, 4))])
    sides = hand.node("Cast", [shape], to=int(TensorProto.FLOAT))
    larger = hand.node("Mul", [sides, hand.constant("factor", np.array(1.5, np.float32))])
    batch = hand.node("Slice", [hand.node("Shape", ["x"]), *(hand.constant(f"s{n}", np.array([n], np.int64)) for n in (0, 2))])
    sizes = hand.node("Concat", [batch, hand.node("Cast", [larger], to=int(TensorProto.INT64))], axis=0)
    y = hand.node("Resize", [hand.conv("x", 3), "", "", sizes], 3, mode="nearest")
    lowered = check(hand.case(y), "fp16")
    types = types_of(lowered.graph)
    assert types[larger] == TensorProto.FLOAT
    resize = next(node for node in lowered.graph.graph.node if node.op_type == "Resize")
    assert types[resize.input[0]] == types[resize.output[0]] == TensorProto.FLOAT16

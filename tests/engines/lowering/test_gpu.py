"""Lowering for a GPU: the same function in a graph whose weights are all where they are used, in float32 and in float16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import EngineError, UsageError
from engines import ort_session
from engines.lowering.gpu import LoweredGraph, find_float16_overflows, lower_for_gpu
from tests.engines.conftest import NAMES, Case
from tests.support.handmade_graphs import HAND, Hand, weight_norm
from tests.support.pico_architectures import pico_net, pico_state

TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}
"""Of the output's range. float32: a fold rounds each activation once more (6e-8); measured 1e-7 to 2e-6. float16: the goal that a
user is promised; each activation is rounded by 2.4e-4 of itself, which averages out over the layers."""
MOVERS = ("Cast", "Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten")
SHARES = ([1.0, 0.0], [0.0, 1.0], [0.35, 0.65], [0.0, 0.0, 1.0], [0.5, 0.2, 0.3])


@pytest.fixture(params=[*NAMES, *HAND])
def case(request: pytest.FixtureRequest, pico_case: Callable[[str], Case]) -> Case:
    return HAND[request.param]() if request.param in HAND else pico_case(request.param)


@pytest.fixture(params=["fp32", "fp16"])
def precision(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def distance(got: NDArray[np.float32], expected: NDArray[Any]) -> float:
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.ptp(expected))


@pytest.mark.parametrize("fold", [True, False])
def test_the_lowered_graph_computes_the_same(case: Case, precision: str, fold: bool) -> None:
    lowered = lower_for_gpu(case.graph, case.weights, precision, fold=fold)
    for shares in SHARES if fold else SHARES[2:3]:
        blended = blend_float64(case.members[: len(shares)], np.array(shares))
        before = ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, blended), 1)
        after = ort_session.open_cpu_session(lowered.bind_weights(lowered.recipes.compute_values(blended)), 1)
        for x in case.inputs():
            assert distance(ort_session.run_session(after, x), ort_session.run_session(before, x)) <= TOLERANCE[precision]


@pytest.mark.parametrize("name", NAMES)
def test_it_equals_pytorch(name: str, pico_case: Callable[[str], Case], precision: str) -> None:
    """The whole road: exported, lowered, weights made by the recipes from the blend, against the network in float64."""
    case = pico_case(name)
    lowered = lower_for_gpu(case.graph, case.weights, precision)
    for count, shares in ((2, [0.0, 1.0]), (2, [0.35, 0.65]), (3, [0.5, 0.2, 0.3])):
        blended = blend_float64(case.members[:count], np.array(shares))
        net = pico_net(name).double()
        left = net.load_state_dict({key: torch.from_numpy(value) for key, value in blended.items()}, strict=False)
        assert not left.unexpected_keys
        session = ort_session.open_cpu_session(lowered.bind_weights(lowered.recipes.compute_values(blended)), 1)
        for x in case.inputs():
            with torch.no_grad():
                expected = net(torch.from_numpy(x).double()).numpy()
            assert distance(ort_session.run_session(session, x), expected) <= TOLERANCE[precision]


# ----- the graph


def test_the_graph_is_a_proper_one(case: Case, precision: str) -> None:
    before = case.graph.SerializeToString(deterministic=True)
    lowered = lower_for_gpu(case.graph, case.weights, precision)
    assert case.graph.SerializeToString(deterministic=True) == before
    bound = lowered.bind_weights(lowered.recipes.compute_values(case.members[0]))
    onnx.checker.check_model(bound, full_check=True)
    graph = bound.graph
    assert bound.opset_import == case.graph.opset_import
    assert bound.ir_version == case.graph.ir_version
    assert [value.SerializeToString() for value in graph.input] == [v.SerializeToString() for v in case.graph.graph.input]
    assert [value.SerializeToString() for value in graph.output] == [v.SerializeToString() for v in case.graph.graph.output]
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    again = lower_for_gpu(case.graph, case.weights, precision)
    assert again.digest() == lowered.digest()
    assert again.recipes == lowered.recipes


def test_weights_are_read_by_those_who_use_them(case: Case, precision: str) -> None:
    lowered = lower_for_gpu(case.graph, case.weights, precision)
    graph = lowered.graph.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    assert len(initializers) == len(graph.initializer)
    assert [weight.name for weight in lowered.weights] == [name for name in initializers if name in lowered.recipes.linear]
    assert {weight.name for weight in lowered.weights} == set(lowered.recipes.linear)
    values = lowered.recipes.compute_values(case.members[0])
    for weight in lowered.weights:
        tensor = initializers[weight.name]
        assert not tensor.raw_data
        assert tuple(tensor.dims) == weight.shape == values[weight.name].shape
        assert helper.tensor_dtype_to_np_dtype(tensor.data_type) == weight.dtype
        assert weight.count == values[weight.name].size
        readers = [node.op_type for node in graph.node if weight.name in node.input]
        assert readers
        assert not set(readers) & set(MOVERS)
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)
    written = {fold.weight for fold in lowered.recipes.folds} | {fold.bias for fold in lowered.recipes.folds}
    assert all(recipe.source in case.weights for name, recipe in lowered.recipes.linear.items() if name not in written)


def test_elementwise_operands_have_the_rank_of_the_result(case: Case, precision: str) -> None:
    """TensorRT's parser would put a Shuffle between, and a refittable engine runs it at every frame."""
    lowered = lower_for_gpu(case.graph, case.weights, precision)
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    ranks = {tensor.name: len(tensor.dims) for tensor in lowered.graph.graph.initializer if tensor.data_type in floats}
    for node in lowered.graph.graph.node:
        if node.op_type in ("Add", "Sub", "Mul", "Div", "PRelu"):
            own = {ranks[name] for name in node.input if name in ranks and node.input[0] not in ranks}
            assert own <= {2 if case.name == "hand" and case.shapes[0][2:] == () else 4}


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def test_types_agree_at_every_node(case: Case, precision: str) -> None:
    """As a strongly typed compiler wants them: within a node all floats are of one type, but for what the standard fixes."""
    lowered = lower_for_gpu(case.graph, case.weights, precision)
    types = types_of(lowered.graph)
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    counts = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for node in lowered.graph.graph.node:
        schema = defs.get_schema(node.op_type, lowered.graph.opset_import[0].version)
        if node.op_type == "Cast":
            assert node.input[0] not in lowered.recipes.linear
            continue
        seen = set()
        for formals, values in ((schema.inputs, node.input), (schema.outputs, node.output)):
            for position, name in enumerate(values):
                fixed = formals[min(position, len(formals) - 1)].type_str.startswith("tensor(")
                if name and types[name] in floats and not fixed:
                    seen.add(types[name])
        assert len(seen) <= 1, (node.op_type, node.name)
        for kind in seen:
            counts[kind] += 1
    if precision == "fp32":
        assert not counts[TensorProto.FLOAT16]
        assert not any(node.op_type == "Cast" for node in lowered.graph.graph.node)
    else:
        assert counts[TensorProto.FLOAT16] > counts[TensorProto.FLOAT]


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
    assert len(norms) == 9
    assert {types[name] for node in norms for name in (*node.input, *node.output)} == {TensorProto.FLOAT}
    dtypes = {weight.name: weight.dtype for weight in lowered.weights}
    assert {dtypes[name] for node in norms for name in node.input[1:]} == {np.dtype(np.float32)}
    assert {dtypes[node.input[1]] for node in lowered.graph.graph.node if node.op_type == "Conv"} == {np.dtype(np.float16)}


def test_slopes_of_a_prelu(pico_case: Callable[[str], Case]) -> None:
    lowered = lower_for_gpu(pico_case("compact").graph, pico_case("compact").weights, "fp32")
    shapes = {weight.name: weight.shape for weight in lowered.weights}
    slopes = [node.input[1] for node in lowered.graph.graph.node if node.op_type == "PRelu"]
    assert slopes == ["body.1.weight", "body.3.weight", "body.5.weight", "body.7.weight"]
    assert {shapes[name] for name in slopes} == {(1, 8, 1, 1)}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("conv_bn", {"Conv": 2}),
        ("transposed_bn", {"Conv": 1, "ConvTranspose": 1}),
        ("bn_first", {"Mul": 1, "Add": 1, "Conv": 1}),
        ("bn_after_bn", {"Conv": 1, "Mul": 1, "Add": 1}),
        ("linear_bn", {"Gemm": 1, "Mul": 1, "Add": 1}),
        ("bn_without_affine", {"Conv": 1}),
        ("prelu_per_channel", {"Conv": 2, "PRelu": 1}),
    ],
)
def test_what_is_folded(name: str, kinds: dict[str, int]) -> None:
    case = HAND[name]()
    assert Counter(node.op_type for node in lower_for_gpu(case.graph, case.weights, "fp32").graph.graph.node) == kinds


# ----- what stands between a weight and its consumer


def linear() -> tuple[Hand, str]:
    """x (n, 6) times a weight (10, 6) that is transposed and reshaped on its way, as an exporter writes a linear layer."""
    hand = Hand(6)
    weight = hand.weight("fc.weight", (10, 6), -0.5, 0.5)
    moved = hand.node("Transpose", [hand.node("Identity", [weight], 10)], 10, perm=[1, 0])
    shape = hand.constant("shape", np.array([0, -1], np.int64))
    moved = hand.node("Cast", [hand.node("Reshape", [moved, shape], 10)], 10, to=int(TensorProto.FLOAT))
    y = hand.node("MatMul", ["x", moved], 10)
    return hand, hand.node("Add", [y, hand.weight("fc.bias", (10,), -0.5, 0.5)], 10)


def check(case: Case, precision: str) -> LoweredGraph:
    lowered = lower_for_gpu(case.graph, case.weights, precision)
    blended = blend_float64(case.members, np.array([0.5, 0.2, 0.3]))
    before = ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, blended), 1)
    after = ort_session.open_cpu_session(lowered.bind_weights(lowered.recipes.compute_values(blended)), 1)
    for x in case.inputs():
        assert distance(ort_session.run_session(after, x), ort_session.run_session(before, x)) <= TOLERANCE[precision]
    return lowered


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


def test_a_shuffled_weight_keeps_its_nodes(precision: str) -> None:
    """A transposition of split axes is more than a recipe can say; the graph then does it itself."""
    hand = Hand()
    weight = hand.weight("w", (8, 3, 3, 3), -0.3, 0.3)
    split = hand.node("Reshape", [weight, hand.constant("split", np.array([2, 4, 3, 3, 3], np.int64))], 8)
    swapped = hand.node("Transpose", [split], 8, perm=[1, 0, 2, 3, 4])
    joined = hand.node("Reshape", [swapped, hand.constant("join", np.array([8, 3, 3, 3], np.int64))], 8)
    lowered = check(hand.case(hand.node("Conv", ["x", joined], 8, kernel_shape=[3, 3], pads=[1] * 4)), precision)
    assert [node.op_type for node in lowered.graph.graph.node if node.op_type != "Cast"] == ["Transpose", "Reshape", "Conv"]


def test_a_product_of_two_weights_is_computed_in_float32(precision: str) -> None:
    lowered = check(weight_norm(), precision)
    assert {weight.dtype for weight in lowered.weights} == {np.dtype(np.float32)}


# ----- what float16 cannot say


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
def test_a_constant_that_a_half_cannot_hold_keeps_its_node_in_float32(bound: float) -> None:
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
    """A Resize to 3/2 of the size, computed in the graph: a half would be off by pixels from 2048 on."""
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


def test_weights_beyond_a_half_are_named() -> None:
    case = HAND["conv_bn"]()
    lowered = lower_for_gpu(case.graph, case.weights, "fp16")
    assert find_float16_overflows(lowered, case.members) == []
    case.members[1]["conv0.weight"][2, 1, 0, 0] = 7e4
    case.members[2]["conv2.bias"][1] = -7e4
    assert find_float16_overflows(lowered, case.members) == ["conv0.weight", "conv2.bias"]
    assert find_float16_overflows(lower_for_gpu(case.graph, case.weights, "fp32"), case.members) == []


def test_a_variance_that_makes_a_folded_weight_overflow_is_seen() -> None:
    case = HAND["conv_bn"]()
    lowered = lower_for_gpu(case.graph, case.weights, "fp16")
    case.members[0]["bn1.weight"][3] = 3e4
    assert find_float16_overflows(lowered, case.members) == []
    case.members[0]["bn1.running_var"][3] = 1e-4
    found = find_float16_overflows(lowered, case.members)
    assert "conv0.weight" in found
    assert len(found) == 2


# ----- errors


def test_a_graph_with_graphs_inside_is_refused() -> None:
    case = HAND["conv_bn"]()
    inner = helper.make_graph([], "inner", [], [])
    case.graph.graph.node.append(helper.make_node("If", ["c"], ["d"], name="choose", then_branch=inner, else_branch=inner))
    with pytest.raises(EngineError, match=r"'choose' \(If\)"):
        lower_for_gpu(case.graph, case.weights, "fp32")


def test_a_value_that_is_missing_is_named() -> None:
    case = HAND["conv_bn"]()
    lowered = lower_for_gpu(case.graph, case.weights, "fp32")
    values = lowered.recipes.compute_values(case.members[0])
    del values["conv2.bias"]
    with pytest.raises(EngineError, match=r"conv2\.bias"):
        lowered.bind_weights(values)


def test_an_unknown_precision() -> None:
    with pytest.raises(UsageError, match="fp32 or fp16"):
        lower_for_gpu(onnx.ModelProto(), (), "int8")


@pytest.mark.slow
def test_opset_17_stays_opset_17() -> None:
    """As TensorRT 8.6 reads it; reflection pads and Resize are where the two differ."""
    from exporters.architectures.registry import find_architecture
    from exporters.export_graph import export_graph

    net = pico_net("transformer_net")
    tensors = pico_state("transformer_net")
    lifted = export_graph(net, find_architecture("transformer_net", tensors).resolve_signature(net), opset=17)
    x = np.random.default_rng(0).random((1, 3, 24, 32), np.float32)
    with torch.no_grad():
        expected = net.double()(torch.from_numpy(x).double()).numpy()
    for precision, tolerance in TOLERANCE.items():
        lowered = lower_for_gpu(lifted.graph, lifted.names, precision)
        bound = lowered.bind_weights(lowered.recipes.compute_values(tensors))
        onnx.checker.check_model(bound, full_check=True)
        assert bound.opset_import[0].version == 17
        assert distance(ort_session.run_session(ort_session.open_cpu_session(bound, 1), x), expected) <= tolerance

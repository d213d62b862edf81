"""Lowering for a GPU: the same function in a graph whose weights are all where they are used, in float32 and in float16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, defs, helper

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import EngineError, UsageError
from engines import ort_session
from engines.lowering.gpu import find_float16_overflows, lower_for_gpu
from tests.engines.conftest import NAMES, Case
from tests.engines.lowering.conftest import TOLERANCE, check, distance, types_of
from tests.support.handmade_graphs import HAND, weight_norm
from tests.support.pico_architectures import pico_net, pico_state

MOVERS = ("Cast", "Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten")
SHARES = ([1.0, 0.0], [0.0, 1.0], [0.35, 0.65], [0.0, 0.0, 1.0], [0.5, 0.2, 0.3])


@pytest.fixture(params=[*NAMES, *HAND])
def case(request: pytest.FixtureRequest, pico_case: Callable[[str], Case]) -> Case:
    return HAND[request.param]() if request.param in HAND else pico_case(request.param)


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
    """The whole path: exported, lowered, weights made by the recipes from the blend, against the network in float64."""
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


def test_a_product_of_two_weights_is_computed_in_float32(precision: str) -> None:
    lowered = check(weight_norm(), precision)
    assert {weight.dtype for weight in lowered.weights} == {np.dtype(np.float32)}


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
    with pytest.raises(UsageError, match="fp32, tf32 or fp16"):
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

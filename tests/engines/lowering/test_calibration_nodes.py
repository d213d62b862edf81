"""Which layers a calibration can correct, and that a node, a weight and a plain computation agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import ort_session
from engines.lowering.calibration_nodes import (
    Correction,
    find_convolutions,
    find_output_layer,
    fold_correction,
    insert_calibration_nodes,
    parameter_names,
)
from tests.engines.conftest import Case
from tests.support.handmade_graphs import HAND

TOLERANCE = 1e-6
"""Of the largest value: one multiplication in another place."""


def graph_of(nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    tensors = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()]
    axes = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in INTEGERS.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, "h", "w"))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [*tensors, *axes]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    return model


INTEGERS = {"one": [1, 1], "end": [1000, 1000], "rows and columns": [2, 3], "channels": [1], "zero": [0], "three": [3]}
CONV = helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
SHAPES = {"w": (12, 2, 3, 3), "b": (12,)}
CROP = helper.make_node("Slice", ["c", "one", "end", "rows and columns"], ["s"])
SHUFFLES = {
    "CRD": [CONV, CROP, helper.make_node("DepthToSpace", ["s"], ["y"], blocksize=2, mode="CRD")],
    "DCR": [CONV, CROP, helper.make_node("DepthToSpace", ["s"], ["y"], blocksize=2)],
    "in two steps": [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Identity", ["c"], ["y"]),
    ],
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_an_output_behind_rearranged_pixels_is_corrected_in_the_convolution(name: str) -> None:
    model = graph_of(SHUFFLES[name], SHAPES)
    channels = 12 if name == "in two steps" else 3
    layer, places = find_output_layer(model, ("w", "b"), channels)
    assert (layer.value, layer.weight, layer.bias, layer.channels) == ("c", "w", "b", 12)
    rng = np.random.default_rng(1)
    scale, shift = rng.uniform(0.5, 2, channels), rng.normal(size=channels)
    x = rng.random((1, 2, 6, 7), np.float32)
    expected = ort_session.run_session(ort_session.open_cpu_session(model, 1), x)
    expected = expected * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
    values = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    fold_correction(layer, Correction(scale[list(places)], shift[list(places)]), values)
    folded = ort_session.bind_initializers(model, {key: values[key] for key in ("w", "b")})
    output = ort_session.run_session(ort_session.open_cpu_session(folded, 1), x)
    np.testing.assert_allclose(output, expected, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize(
    "nodes",
    [
        [CONV, helper.make_node("Relu", ["c"], ["y"])],
        [CONV, helper.make_node("Add", ["c", "c"], ["y"])],
        [CONV, helper.make_node("Slice", ["c", "zero", "three", "channels"], ["y"])],
        [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])],
    ],
    ids=["activation", "sum", "cut channels", "no bias"],
)
def test_any_other_output_has_a_node(nodes: list[onnx.NodeProto]) -> None:
    layer, places = find_output_layer(graph_of(nodes, SHAPES), ("w", "b"), 3)
    assert (layer.value, layer.weight, layer.channels, places) == ("y", "", 3, (0, 1, 2))


@pytest.mark.parametrize(
    ("name", "count"),
    [("conv_bn", 1), ("tied_convs", 0), ("conv_without_bias_bn", 1), ("prelu_per_channel", 2)],
)
def test_layers_that_nothing_can_correct_are_left_out(name: str, count: int) -> None:
    """Those before a normalization, with shared weights, or without a bias."""
    case = HAND[name]()
    assert len(find_convolutions(case.graph, case.weights)) == count


@pytest.mark.parametrize("name", ["rrdbnet", "compact", "prelu_per_channel"])
def test_nodes_and_weights_compute_the_same(name: str, pico_case: Callable[[str], Case]) -> None:
    case = HAND[name]() if name in HAND else pico_case(name)
    layers = find_convolutions(case.graph, case.weights)
    model = insert_calibration_nodes(case.graph, layers.values())
    rng = np.random.default_rng(2)
    values = {key: np.asarray(tensor, np.float64) for key, tensor in case.members[0].items()}
    numbers = dict(values)
    for layer in layers.values():
        correction = Correction(rng.uniform(0.8, 1.2, layer.channels), rng.normal(0, 0.1, layer.channels))
        parameters = (*correction, np.zeros(layer.channels), np.ones(layer.channels))
        numbers |= dict(zip(parameter_names(layer.value), parameters, strict=True))
        fold_correction(layer, correction, values)
    x = case.inputs()[0]
    expected, output = (
        ort_session.run_session(ort_session.open_cpu_session(ort_session.bind_initializers(graph, tensors), 1), x)
        for graph, tensors in ((model, numbers), (case.graph, values))
    )
    np.testing.assert_allclose(output, expected, atol=1e-5 * np.abs(expected).max())  # float32 sums over some ten layers

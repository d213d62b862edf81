"""Graphs are compared without their names, and constants become weights by their place."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.checkpoints.graph_family import GraphFamily, read_graph_family, read_graph_files
from dni_deploy.errors import CheckpointError, InputError, MismatchError, UsageError
from tests.support.graph_files import make_conv_model, scramble_names

Change = Callable[[onnx.ModelProto], None]


def make_family(folder: Path, *models: onnx.ModelProto, opset: int | None = None) -> GraphFamily:
    paths = {}
    for name, model in zip("abcd", models, strict=False):
        paths[name] = folder / f"{name}.onnx"
        paths[name].write_bytes(model.SerializeToString())
    return read_graph_family(read_graph_files(paths), opset)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).random((1, 3, 8, 9), np.float32)
    output: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return output


def initializer(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def set_value(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    initializer(model, name).CopyFrom(numpy_helper.from_array(value, name))


def test_renamed_and_permuted_files_are_one_family(tmp_path: Path) -> None:
    models = [make_conv_model(seed) for seed in range(3)]
    for index, model in enumerate(models):
        onnx.save(model, str(tmp_path / f"{index}.onnx"))
        if index:
            scramble_names(tmp_path / f"{index}.onnx", index)
    scrambled = [onnx.load(str(tmp_path / f"{index}.onnx")) for index in range(3)]
    family = make_family(tmp_path, *scrambled)
    assert set(family.family.float_keys) == {"first.weight", "first.bias", "second.weight", "second.bias"}
    for member, model in zip(family.family.members, models, strict=True):
        for key, value in member.checkpoint.tensors.items():
            assert np.array_equal(value, numpy_helper.to_array(initializer(model, key)))
    assert np.array_equal(run(family.graph), run(models[0]))


def test_the_order_of_the_nodes_does_not_matter(tmp_path: Path) -> None:
    def append_branch(model: onnx.ModelProto, is_first: bool) -> None:
        branch = helper.make_node("Sigmoid", ["image"], ["s"])
        model.graph.node.insert(0 if is_first else len(model.graph.node) - 1, branch)
        model.graph.node[-1].input[1] = "s"

    models = [make_conv_model(seed) for seed in range(2)]
    append_branch(models[0], True)
    append_branch(models[1], False)
    assert len(make_family(tmp_path, *models).family.members) == 2


def test_a_scalar_that_differs_is_a_weight_and_one_that_does_not_stays_a_constant(tmp_path: Path) -> None:
    first, second = make_conv_model(0), make_conv_model(1)
    assert "gain" not in make_family(tmp_path, first, second).family.float_keys
    set_value(second, "gain", np.array(0.75, np.float32))
    assert make_family(tmp_path, first, second).family["b"].checkpoint.tensors["gain"] == np.float32(0.75)


def set_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[3].attribute[0].ints[:] = [0, 1, 2, 1]


def replace_relu(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Sigmoid"


def add_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["result"], ["more"]))
    model.graph.output[0].name = "more"


def rewire(model: onnx.ModelProto) -> None:
    model.graph.node[4].input[1] = "d"


def change_shape(model: onnx.ModelProto) -> None:
    set_value(model, "first.weight", np.ones((4, 3, 1, 1), np.float32))


def change_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_attribute, r"'b' has another graph than 'a': at node 3 \(Conv 'second'\) 'pads' is \[0, 1, 2, 1\] instead of \[1, 1"),
        (replace_relu, r"at node 1 \(Relu 'relu'\) it has node 1 \(Sigmoid 'relu'\)"),
        (add_node, "it has 6 nodes instead of 5"),
        (rewire, r"at node 4 \(Add 'skip'\) the inputs come from elsewhere"),
        (change_shape, r"at input 1 of node 0 \(Conv 'first'\) it has a constant float32 \(4, 3, 1, 1\) instead of float32 \(4, 3, 3, 3\)"),
        (change_opset, "it is of opset 18 instead of 17"),
    ],
)  # fmt: skip
def test_another_graph_is_named_by_its_first_node(change: Change, message: str, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=message):
        make_family(tmp_path, make_conv_model(0), make_conv_model(1, change))


def clip(high: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.float32(high), "high"))
        model.graph.node.append(helper.make_node("Clip", ["result", "", "high"], ["clipped"], "clip"))
        model.graph.output[0].name = "clipped"

    return change


def test_a_setting_that_differs_is_not_blended(tmp_path: Path) -> None:
    with pytest.raises(
        MismatchError, match=r"at input 2 of node 5 \(Clip 'clip'\) it has the constant 2.0 instead of 1.0, which is no"
    ):
        make_family(tmp_path, make_conv_model(0, clip(1)), make_conv_model(1, clip(2)))


def share_bias(model: onnx.ModelProto) -> None:
    """As exporters do with equal tensors: the second layer reads the first one's through an Identity."""
    set_value(model, "first.weight", np.ones((3, 3, 3, 3), np.float32))
    set_value(model, "first.bias", np.zeros(3, np.float32))
    set_value(model, "second.weight", np.ones((3, 3, 3, 3), np.float32))
    model.graph.initializer.remove(initializer(model, "second.bias"))
    model.graph.node.insert(0, helper.make_node("Identity", ["first.bias"], ["second.bias"]))


def separate_bias(model: onnx.ModelProto) -> None:
    for name in ("first.weight", "second.weight"):
        set_value(model, name, np.full((3, 3, 3, 3), 0.5, np.float32))
    set_value(model, "first.bias", np.ones(3, np.float32))
    set_value(model, "second.bias", np.full(3, 2, np.float32))


def test_a_tensor_shared_in_one_file_alone_is_two_weights(tmp_path: Path) -> None:
    family = make_family(tmp_path, make_conv_model(0, share_bias), make_conv_model(0, separate_bias))
    assert family.family.float_keys == ("first.weight", "Conv_0.bias", "second.weight", "Conv_3.bias")
    assert family.family["b"].checkpoint.tensors["Conv_3.bias"][0] == 2
    shared = make_family(tmp_path, make_conv_model(0, share_bias), make_conv_model(0, share_bias))
    assert shared.family.float_keys == ("first.weight", "first.bias", "second.weight")


def test_constants_in_nodes_are_weights_too(tmp_path: Path) -> None:
    def into_node(model: onnx.ModelProto) -> None:
        tensor = initializer(model, "first.weight")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["first.weight"], value=tensor))
        model.graph.initializer.remove(tensor)

    family = make_family(tmp_path, make_conv_model(0, into_node), make_conv_model(1))
    assert family.family.float_keys[0] == "first.weight"
    assert np.array_equal(run(family.graph), run(make_conv_model(0)))


@pytest.mark.parametrize("name", ["onnx::Conv_12", "12", "/body/Constant_output_0", "../x", "a\nb", "x", "Conv_3:0"])
def test_names_that_say_nothing_or_are_in_use_give_way_to_the_place(name: str, tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        initializer(model, "first.weight").name = name
        model.graph.node[0].input[1] = name

    family = make_family(tmp_path, make_conv_model(0, rename), make_conv_model(1, rename))
    expected = name if name == "Conv_3:0" else "Conv_0.weight"
    assert family.family.float_keys[0] == expected
    assert np.array_equal(run(family.graph), run(make_conv_model(0)))


@pytest.mark.parametrize(("name", "is_folded"), [("onnx::Conv_12", True), ("body.1.weight_bias", True), ("body.1.bias", False)])
def test_names_that_folding_leaves_are_noted(name: str, is_folded: bool, tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        initializer(model, "first.bias").name = name
        model.graph.node[0].input[2] = name

    notes = make_family(tmp_path, make_conv_model(0, rename), make_conv_model(1, rename)).family.notes
    assert any("folded BatchNorm" in note for note in notes) == is_folded


def test_an_older_opset_is_converted(tmp_path: Path) -> None:
    models = [make_conv_model(seed, opset=11) for seed in range(2)]
    family = make_family(tmp_path, *models)
    assert family.graph.opset_import[0].version == 17
    assert np.array_equal(run(family.graph), run(models[0]))
    assert make_family(tmp_path, *models, opset=18).graph.opset_import[0].version == 18
    with pytest.raises(UsageError, match="is of opset 18; a lower one"):
        make_family(tmp_path, *[make_conv_model(seed, opset=18) for seed in range(2)], opset=17)


def test_initializers_that_are_inputs_too_are_no_images(tmp_path: Path) -> None:
    def list_as_inputs(model: onnx.ModelProto) -> None:  # as IR version 3 demands
        for tensor in model.graph.initializer:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))

    family = make_family(tmp_path, make_conv_model(0, list_as_inputs), make_conv_model(1))
    assert [value.name for value in family.graph.graph.input] == ["x"]


def add_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("sigma", TensorProto.FLOAT, [1]))


def add_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 4, "h", "w"]))


def make_vector(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[3]


@pytest.mark.parametrize(
    ("change", "message"),
    [(add_input, "2 inputs and 1 outputs"), (add_output, "1 inputs and 2 outputs"), (make_vector, "an image of 3 axes")],
)
def test_one_image_goes_in_and_one_comes_out(change: Change, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        make_family(tmp_path, make_conv_model(0, change), make_conv_model(1, change))


def test_nan_in_a_member_is_refused(tmp_path: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        set_value(model, "first.bias", np.array([0, np.nan, 0, 0], np.float32))

    with pytest.raises(InputError, match=r"Member 'b' has 1 NaN or infinite numbers in 'first\.bias'"):
        make_family(tmp_path, make_conv_model(0), make_conv_model(1, spoil))


def test_a_deep_network_does_not_exhaust_the_stack(tmp_path: Path) -> None:
    def deepen(model: onnx.ModelProto) -> None:
        names = ["result", *(f"r{index}" for index in range(3000))]
        model.graph.node.extend(
            helper.make_node("Relu", [one], [two]) for one, two in pairwise(names)
        )  # fmt: skip
        model.graph.output[0].name = names[-1]

    assert len(make_family(tmp_path, make_conv_model(0, deepen), make_conv_model(1, deepen)).graph.graph.node) == 3005

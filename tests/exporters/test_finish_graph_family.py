"""A graph from files is made dynamic, measured, and compared with each member's file."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.errors import InputError, MismatchError
from exporters.finish_graph_family import finish_graph, verify_members
from tests.support.graph_files import make_conv_model


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_a_graph_is_measured_and_its_shapes_are_filled_in() -> None:
    finished = finish_graph(make_conv_model(sizes=(1, "c", "h", "w")), "a.onnx")
    assert (finished.signature.input_channels, finished.signature.output_channels, finished.border) == (3, 3, 0)
    shape = finished.graph.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["n", 3, "h", "w"]
    assert finished.graph.graph.value_info  # inferred


def test_each_member_is_compared_with_its_own_file() -> None:
    models = {name: make_conv_model(seed) for seed, name in enumerate("ab")}
    finished = finish_graph(models["a"], "a.onnx")
    assert verify_members(finished, [(name, model, weights_of(model)) for name, model in models.items()]) == 0
    with pytest.raises(MismatchError, match="with the weights of member 'b' differs from its file by"):
        verify_members(finished, [("b", models["b"], weights_of(models["a"]))])


def remove_skip(model: onnx.ModelProto) -> None:
    """The output is that of the second convolution, made small."""
    tensor = model.graph.initializer[2]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.01), tensor.name))
    bias = model.graph.initializer[3]
    bias.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), bias.name))
    del model.graph.node[4]
    model.graph.node[3].output[0] = "result"


def test_a_network_that_gives_a_difference_is_noted() -> None:
    assert finish_graph(make_conv_model(2), "a.onnx").notes == ()
    [note] = finish_graph(make_conv_model(2, remove_skip), "a.onnx").notes
    assert "near 0, as if it were a difference" in note
    assert "--residual" in note


def append_node(model: onnx.ModelProto, operator: str, *inputs: str, **attributes: Any) -> None:
    model.graph.node.append(helper.make_node(operator, ["result", *inputs], ["last"], "last", **attributes))
    model.graph.output[0].name = "last"


def test_a_graph_for_one_image_at_a_time_is_refused() -> None:
    def mix_batch(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 3, -1, 1]), "shape"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axes"))
        append_node(model, "ReduceSum", "axes", keepdims=1)

    with pytest.raises(InputError, match=r"a\.onnx takes one image at a time"):
        finish_graph(make_conv_model(0, mix_batch), "a.onnx")


def test_an_output_that_is_no_image_is_refused() -> None:
    with pytest.raises(MismatchError, match="signature could not be measured"):
        finish_graph(make_conv_model(0, lambda model: append_node(model, "GlobalAveragePool")), "a.onnx")


def test_what_onnxruntime_cannot_load_is_one_sentence() -> None:
    def break_types(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
        append_node(model, "Add", "one")
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT

    with pytest.raises(InputError, match=r"a\.onnx cannot be loaded in ONNX Runtime: "):
        finish_graph(make_conv_model(0, break_types), "a.onnx")

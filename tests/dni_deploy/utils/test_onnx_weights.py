"""Initializers of a graph: removing data, inserting data, external data, and checks of every tensor."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from dni_deploy.errors import BundleError, MismatchError, RefusedError
from dni_deploy.utils import onnx_weights

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def make_model(*extra: TensorProto) -> ModelProto:
    tensors = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.ones(3, np.float32), "b"), *extra]
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    return helper.make_model(helper.make_graph([node], "g", [x], [y], tensors))


def test_weights_are_found_in_graph_order() -> None:
    model = make_model(numpy_helper.from_array(np.ones(1, np.int64), "count"))
    assert [tensor.name for tensor in onnx_weights.find_weight_initializers(model, ["b", "w", "absent"])] == ["w", "b"]
    with pytest.raises(MismatchError, match="'count' as INT64"):
        onnx_weights.find_weight_initializers(model, ["count"])
    with pytest.raises(MismatchError, match="nothing could be blended"):
        onnx_weights.find_weight_initializers(model, ["absent"])


def test_weight_data_round_trip() -> None:
    model = make_model()
    onnx_weights.strip_weights(model, {"w": (2, 3), "b": (3,)})
    weight = model.graph.initializer[0]
    assert (weight.name, list(weight.dims), weight.data_type) == ("w", [2, 3], TensorProto.FLOAT)
    assert not weight.raw_data
    onnx_weights.fill_initializers(model, ["w"], lambda name: WEIGHT * 2)
    assert numpy_helper.to_array(weight).tolist() == (WEIGHT * 2).tolist()
    with pytest.raises(MismatchError, match=r"'w' is \(6,\), the graph has it as \(2, 3\)"):
        onnx_weights.fill_initializer(weight, WEIGHT.reshape(6))


def test_every_kind_of_data_is_removed() -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    onnx_weights.strip_initializer(tensor)
    assert not tensor.float_data
    onnx_weights.set_external_data(tensor, "w.bin", 8, 4)
    onnx_weights.strip_initializer(tensor)
    assert (tensor.data_location, list(tensor.external_data)) == (TensorProto.DEFAULT, [])


def test_external_data_replaces_the_data() -> None:
    tensor = numpy_helper.from_array(WEIGHT, "w")
    onnx_weights.set_external_data(tensor, "members.safetensors", 80, 24)
    assert not tensor.raw_data
    assert {entry.key: entry.value for entry in tensor.external_data} == {
        "location": "members.safetensors",
        "offset": "80",
        "length": "24",
    }


@pytest.mark.parametrize(
    ("shapes", "message"),
    [({"absent": (1,)}, "none of that name"), ({"w": (3, 2)}, r"is \(3, 2\) in the manifest, \(2, 3\) in the graph")],
)
def test_weights_that_do_not_fit_the_manifest_are_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        onnx_weights.strip_weights(make_model(), shapes)


def external(name: str) -> TensorProto:
    tensor = numpy_helper.from_array(WEIGHT, name)
    onnx_weights.set_external_data(tensor, "/etc/passwd", 0, 24)
    return tensor


def test_any_tensor_that_points_at_a_file_is_refused() -> None:
    """Places such tensors among the initializers, in an attribute, in a subgraph, and in a function."""
    branch = helper.make_graph([], "branch", [], [], [external("inner")])
    by_place = {
        "initializer": make_model(external("other")),
        "attribute": make_model(),
        "subgraph": make_model(),
        "function": make_model(),
    }
    by_place["attribute"].graph.node.append(helper.make_node("Constant", [], ["c"], value=external("value")))
    by_place["subgraph"].graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    constant = helper.make_node("Constant", [], ["c"], value=external("value"))
    by_place["function"].functions.append(helper.make_function("local", "f", [], ["c"], [constant], []))
    for model in by_place.values():
        with pytest.raises(RefusedError, match="points at a file"):
            onnx_weights.strip_weights(model, {"w": (2, 3)})


def test_bytes_that_are_not_a_graph_are_refused() -> None:
    assert onnx_weights.parse_graph(make_model().SerializeToString(), "g.onnx").graph.name == "g"
    for data, message in ((b"\xff\xff\xff", "not an ONNX graph"), (b"", "without nodes or outputs")):
        with pytest.raises(BundleError, match=f"g.onnx is .*{message}"):
            onnx_weights.parse_graph(data, "g.onnx")

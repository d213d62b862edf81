"""A graph in opset 17 computes what it did in opset 18, or is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from dni_deploy.errors import UsageError
from dni_deploy.utils.compare_arrays import relative_error
from exporters.opset17 import to_opset17
from tests.support.exported_network import ROUNDING, export_pico, run_graph, seeded_input
from tests.support.pico_architectures import PICO


@pytest.mark.parametrize(
    "name", ["dcgan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("compact", "transformer_net"))]
)
def test_opset_17_keeps_the_names_and_the_picture(name: str) -> None:
    result, net, _ = export_pico(name, opset=17)
    assert [entry.version for entry in result.graph.opset_import if not entry.domain] == [17]
    assert result.names == export_pico(name)[0].names
    for shape in PICO[name].shapes:
        x = seeded_input(*shape)
        with torch.no_grad():
            assert relative_error(run_graph(result.graph, x), net(x).numpy()) <= ROUNDING


def single_node_graph(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A graph of opset 18 from x float32 (2, 3, 4, 4) to y."""
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 4, 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", "c", "h", "w"])
    graph = onnx.helper.make_graph([node], "graph", [x], [y], initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


AXES = {"axes": np.array([2, 3], np.int64)}
CONVERTIBLE = {
    "axes of a reduction": (onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1), AXES),
    "a reduction over all axes": (onnx.helper.make_node("ReduceMax", ["x"], ["y"]), {}),
    "a split in halves": (onnx.helper.make_node("Split", ["x"], ["y", "rest"], axis=2, num_outputs=2), {}),
    "a reflection pad": (
        onnx.helper.make_node("Pad", ["x", "pads"], ["y"], mode="reflect"),
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)},
    ),
}


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_node_computes_the_same_in_opset_17(name: str) -> None:
    graph = single_node_graph(*CONVERTIBLE[name])
    before = graph.SerializeToString()
    older = to_opset17(graph)
    assert graph.SerializeToString() == before
    assert (older.opset_import[0].version, older.ir_version) == (17, 8)
    onnx.checker.check_model(older)
    x = seeded_input(2, 3, 4, 4)
    np.testing.assert_array_equal(run_graph(older, x), run_graph(graph, x))
    assert "axes" not in {tensor.name for tensor in older.graph.initializer}  # moved into the attribute


REFUSED = {
    "axes of a pad": (
        onnx.helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"]),
        {"pads": np.array([1, 1, 1, 1], np.int64), **AXES},
    ),
    "a resize with antialiasing": (
        onnx.helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear", antialias=1),
        {"scales": np.array([1, 1, 0.5, 0.5], np.float32)},
    ),
    "an operator that is new in 18": (onnx.helper.make_node("Mish", ["x"], ["y"]), {}),
    "a scatter by maximum": (
        onnx.helper.make_node("ScatterElements", ["x", "indices", "x"], ["y"], reduction="max"),
        {"indices": np.zeros((2, 3, 4, 4), np.int64)},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_opset_17_does_not_have_is_a_usage_error(name: str) -> None:
    node, constants = REFUSED[name]
    with pytest.raises(UsageError, match=rf"{node.op_type} layer needs 18\. Use --opset 18"):
        to_opset17(single_node_graph(node, constants))

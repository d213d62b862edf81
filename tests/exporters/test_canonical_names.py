"""Canonical names keep what a graph computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from exporters.canonical_names import canonicalize_names, find_used_values, iterate_subgraphs


def test_bodies_of_conditions_are_renamed_too() -> None:
    """A constant and a weight that only the body of an If reads keep their meaning."""

    def body(gain: str, out: str) -> onnx.GraphProto:
        value = onnx.helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph([onnx.helper.make_node("Mul", ["in", gain], [out])], "body", [], [value])

    picture = onnx.helper.make_tensor_value_info("in", onnx.TensorProto.FLOAT, [2])
    weight = onnx.helper.make_tensor_value_info("p_weight", onnx.TensorProto.FLOAT, [2])
    flag = onnx.numpy_helper.from_array(np.array(True), "flag")
    half = onnx.numpy_helper.from_array(np.full(2, 0.5, np.float32), "half")
    node = onnx.helper.make_node("If", ["flag"], ["out"], then_branch=body("p_weight", "a"), else_branch=body("half", "b"))
    output = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [2])
    graph = onnx.helper.make_model(
        onnx.helper.make_graph([node], "main", [picture, weight], [output], [flag, half]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    renamed = canonicalize_names(graph, ["x", "gain"], ["y"])
    onnx.checker.check_model(renamed)
    assert {"x", "gain", "y"} <= find_used_values(renamed)
    assert {each.name for body in iterate_subgraphs(renamed.graph.node[0]) for each in body.node} == {"Mul_3", "Mul_4"}
    session = onnxruntime.InferenceSession(renamed.SerializeToString(), providers=["CPUExecutionProvider"])
    x, gain = np.array([1, 2], np.float32), np.array([3, 5], np.float32)
    assert session.run(None, {"x": x, "gain": gain})[0].tolist() == [3, 10]


def test_nodes_and_values_are_numbered_and_metadata_is_removed() -> None:
    node = onnx.helper.make_node("Relu", ["whatever"], ["result"], name="/usr/lib/module.py:17", doc_string="a stack trace")
    node.metadata_props.add(key="trace", value="/usr/lib/module.py")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("whatever", "out"))
    last = onnx.helper.make_node("Neg", ["result"], ["out"])
    graph = onnx.helper.make_model(onnx.helper.make_graph([node, last], "main", [x], [y], doc_string="made on this machine"))
    graph.metadata_props.add(key="host", value="this machine")
    before = graph.SerializeToString()
    renamed = canonicalize_names(graph, ["x"], ["y"])
    assert graph.SerializeToString() == before
    assert [(each.name, list(each.input), list(each.output)) for each in renamed.graph.node] == [
        ("Relu_0", ["x"], ["Relu_0:0"]),
        ("Neg_1", ["Relu_0:0"], ["y"]),
    ]
    assert b"machine" not in renamed.SerializeToString()
    assert b"module.py" not in renamed.SerializeToString()


def test_a_weight_with_a_generated_name_keeps_it() -> None:
    x, weight, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("a", "b", "c"))
    node = onnx.helper.make_node("Mul", ["a", "b"], ["c"])
    renamed = canonicalize_names(
        onnx.helper.make_model(onnx.helper.make_graph([node], "main", [x, weight], [y])), ["x", "Mul_0"], ["y"]
    )
    assert [value.name for value in renamed.graph.input] == ["x", "Mul_0"]
    assert renamed.graph.node[0].name == "Mul_0_"

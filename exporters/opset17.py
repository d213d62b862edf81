"""A graph of opset 18 in opset 17, which TensorRT 8.6 reads and PyTorch's exporter does not write.

ONNX's own version converter cannot convert Pad, Resize and the reductions downward, which every network with a reflection
pad or an upsampling has. Opset 18 only added options to them; where those are unused, the older form means the same.

Source: the ONNX operator changelog, version 18.
"""

from __future__ import annotations

import onnx
from onnx import defs, numpy_helper

from dni_deploy.errors import UsageError, escape_name

IR_VERSION = 8
"""The file format version that came with opset 17 (ONNX 1.12)."""
OPSET18_ATTRIBUTES: dict[str, dict[str, tuple[object, ...]]] = {
    "Pad": {},
    "Resize": {"antialias": (0,), "keep_aspect_ratio_policy": (b"stretch",), "axes": ()},
    "LpPool": {"dilations": (), "ceil_mode": (0,)},
}
"""What opset 18 added, with the values that mean the same as opset 17."""
OPSET17_SCATTER_REDUCTIONS = (b"none", b"add", b"mul")
"""Of ScatterElements and ScatterND; opset 18 added max and min."""
REDUCE_OPERATORS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


def to_opset17(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Converts a graph of opset 18, which is not changed, to opset 17.

    Raises:
        UsageError: A node has no equivalent in opset 17.
    """
    older = onnx.ModelProto()
    older.CopyFrom(graph)
    constants = {tensor.name: tensor for tensor in older.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in older.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    for node in older.graph.node:
        if node.domain or defs.get_schema(node.op_type, 18).since_version < 18:
            if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
                raise _unsupported_node_error(node)
            continue
        if node.op_type in OPSET18_ATTRIBUTES:
            _drop_neutral_attributes(node)
        elif node.op_type in ("ScatterElements", "ScatterND"):
            reductions = [
                onnx.helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == "reduction"
            ]
            if any(reduction not in OPSET17_SCATTER_REDUCTIONS for reduction in reductions):
                raise _unsupported_node_error(node)
        elif node.op_type == "Split":
            _drop_attribute(node, "num_outputs")
        elif node.op_type.removeprefix("Reduce") in REDUCE_OPERATORS:
            _axes_to_attribute(node, constants)
        else:
            raise _unsupported_node_error(node)
    older.opset_import[0].version = 17
    older.ir_version = IR_VERSION
    _drop_unread_constants(older)
    return older


def _drop_neutral_attributes(node: onnx.NodeProto) -> None:
    if node.op_type == "Pad" and any(node.input[3:]):  # the new fourth input: axes
        raise _unsupported_node_error(node)
    for name, neutral_values in OPSET18_ATTRIBUTES[node.op_type].items():
        for attribute in node.attribute:
            if attribute.name == name and onnx.helper.get_attribute_value(attribute) not in neutral_values:
                raise _unsupported_node_error(node)
        _drop_attribute(node, name)


def _axes_to_attribute(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            raise _unsupported_node_error(node)
        axes = numpy_helper.to_array(constants[node.input[1]]).ravel().tolist()
        del node.input[1:]
        node.attribute.append(onnx.helper.make_attribute("axes", axes))
    _drop_attribute(node, "noop_with_empty_axes")


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
        node.attribute.remove(attribute)


def _drop_unread_constants(graph: onnx.ModelProto) -> None:
    """The axes that moved into attributes are not read any more."""
    used = {name for node in graph.graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.graph.initializer if tensor.name not in used]:
        graph.graph.initializer.remove(tensor)
    for node in [node for node in graph.graph.node if node.op_type == "Constant" and node.output[0] not in used]:
        graph.graph.node.remove(node)


def _unsupported_node_error(node: onnx.NodeProto) -> UsageError:
    return UsageError(
        f"The network cannot be written in opset 17: its {escape_name(node.op_type)} layer needs 18. Use --opset 18."
    )

"""Opset 17: the same graph in the opset that TensorRT 8.6 reads, one below what PyTorch's exporter writes.

ONNX's own version converter has no way down for Pad, Resize and the reductions, which every network with a reflection
pad or an upsampling has. Opset 18 only added options to them; where those are unused, the older form says the same.
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
"""What opset 18 added, with the values at which it means nothing."""
OPSET17_SCATTER_REDUCTIONS = (b"none", b"add", b"mul")
"""Of ScatterElements and ScatterND; opset 18 added max and min."""
REDUCE_OPERATORS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


def to_opset17(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an opset-18 graph in opset 17; raises UsageError where a node says something that 17 cannot."""
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
            if any(
                onnx.helper.get_attribute_value(it) not in OPSET17_SCATTER_REDUCTIONS
                for it in node.attribute
                if it.name == "reduction"
            ):
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
    new = OPSET18_ATTRIBUTES[node.op_type]
    for attribute in [attribute for attribute in node.attribute if attribute.name in new]:
        if onnx.helper.get_attribute_value(attribute) not in new[attribute.name]:
            raise _unsupported_node_error(node)
        node.attribute.remove(attribute)


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
    """The axes that moved into attributes are read by nobody any more."""
    read = {name for node in graph.graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.graph.initializer if tensor.name not in read]:
        graph.graph.initializer.remove(tensor)
    for node in [node for node in graph.graph.node if node.op_type == "Constant" and node.output[0] not in read]:
        graph.graph.node.remove(node)


def _unsupported_node_error(node: onnx.NodeProto) -> UsageError:
    return UsageError(
        f"The network cannot be written in opset 17: its {escape_name(node.op_type)} layer needs 18. Use --opset 18."
    )

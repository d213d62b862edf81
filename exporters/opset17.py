"""Opset 17: the same graph in the opset that TensorRT 8.6 reads, one below what PyTorch's exporter writes.

ONNX's own version converter has no way down for Pad, Resize and the reductions, which every network with a reflection
pad or an upsampling has. Opset 18 only added options to them; where those are unused, the older form says the same.
Source: the ONNX operator changelog, version 18.
"""

from __future__ import annotations

import onnx
from onnx import defs, numpy_helper

from dni_deploy.errors import UsageError, shown

IR_VERSION = 8
"""The file format version that came with opset 17 (ONNX 1.12)."""
NEW_ATTRIBUTES: dict[str, dict[str, tuple[object, ...]]] = {
    "Pad": {},
    "Resize": {"antialias": (0,), "keep_aspect_ratio_policy": (b"stretch",), "axes": ()},
    "LpPool": {"dilations": (), "ceil_mode": (0,)},
}
"""What opset 18 added, with the values at which it means nothing."""
OLD_REDUCTIONS = (b"none", b"add", b"mul")
"""Of ScatterElements and ScatterND; opset 18 added max and min."""
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


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
                raise _no_form(node)
            continue
        if node.op_type in NEW_ATTRIBUTES:
            _drop_neutral(node)
        elif node.op_type in ("ScatterElements", "ScatterND"):
            if any(
                onnx.helper.get_attribute_value(it) not in OLD_REDUCTIONS for it in node.attribute if it.name == "reduction"
            ):
                raise _no_form(node)
        elif node.op_type == "Split":
            _drop(node, "num_outputs")
        elif node.op_type.removeprefix("Reduce") in REDUCTIONS:
            _axes_to_attribute(node, constants)
        else:
            raise _no_form(node)
    older.opset_import[0].version = 17
    older.ir_version = IR_VERSION
    _drop_unread_constants(older)
    return older


def _drop_neutral(node: onnx.NodeProto) -> None:
    if node.op_type == "Pad" and any(node.input[3:]):  # the new fourth input: axes
        raise _no_form(node)
    new = NEW_ATTRIBUTES[node.op_type]
    for attribute in [attribute for attribute in node.attribute if attribute.name in new]:
        if onnx.helper.get_attribute_value(attribute) not in new[attribute.name]:
            raise _no_form(node)
        node.attribute.remove(attribute)


def _axes_to_attribute(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            raise _no_form(node)
        axes = numpy_helper.to_array(constants[node.input[1]]).ravel().tolist()
        del node.input[1:]
        node.attribute.append(onnx.helper.make_attribute("axes", axes))
    _drop(node, "noop_with_empty_axes")


def _drop(node: onnx.NodeProto, name: str) -> None:
    for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
        node.attribute.remove(attribute)


def _drop_unread_constants(graph: onnx.ModelProto) -> None:
    """The axes that moved into attributes are read by nobody any more."""
    read = {name for node in graph.graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.graph.initializer if tensor.name not in read]:
        graph.graph.initializer.remove(tensor)
    for node in [node for node in graph.graph.node if node.op_type == "Constant" and node.output[0] not in read]:
        graph.graph.node.remove(node)


def _no_form(node: onnx.NodeProto) -> UsageError:
    return UsageError(f"The network cannot be written in opset 17: its {shown(node.op_type)} layer needs 18. Use --opset 18.")

"""An ONNX graph as TensorRT's parser reads it: the named weights, and the graph that uses these names.

BatchNormalization is folded at parse time into a scale and a shift with made-up names; InstanceNormalization is a plugin on 8.6
unless requested otherwise, and its weights then cannot be refitted. Shape parameters are not weights.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

NOT_WEIGHTS = {
    "Resize": (1, 2, 3),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 2, 3),
    "Unsqueeze": (1,),
    "Squeeze": (1,),
}
NOT_WEIGHTS |= {"Expand": (1,), "Tile": (1,), "ReduceMean": (1,), "ReduceSum": (1,), "Split": (1,), "ConstantOfShape": (0,)}
"""Operator inputs that TensorRT treats as shapes or attributes."""

FOLDED = {
    "8.6": "tmp_weight",
    "10.16": "tmp_refittable_weight",
    "11.4": "tmp_refittable_weight",
    "rtx-1.7": "tmp_refittable_weight",
}
LARGEST_OPSET = {"8.6": 17, "10.16": 22, "11.4": 23, "rtx-1.7": 23}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


class NotParsed(Exception):
    """The model cannot be parsed; the message is the parser's."""


@dataclass
class Model:
    """proto has every initializer's data; `weights` are those initializers that a refit could change, in the graph's order.

    groups: for each weight, those that TensorRT combines with it (kernel and bias of one layer): all or none must be supplied.
    """

    proto: onnx.ModelProto
    weights: list[str] = field(default_factory=list)
    groups: dict[str, frozenset[str]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()

    def values(self) -> dict[str, NDArray[Any]]:
        held = {one.name: one for one in self.proto.graph.initializer}
        return {name: numpy_helper.to_array(held[name]) for name in self.weights}

    def inputs(self) -> list[onnx.ValueInfoProto]:
        held = {one.name for one in self.proto.graph.initializer}
        return [one for one in self.proto.graph.input if one.name not in held]


def parse(data: bytes, version: str, native_instancenorm: bool) -> Model:
    """Raises NotParsed."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:
        raise NotParsed("Failed to parse ONNX model from bytes") from error
    if not proto.graph.node or not proto.graph.output:
        raise NotParsed("Network must have at least one output")
    opset = max((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), default=0)
    if opset > LARGEST_OPSET[version]:
        raise NotParsed(f"opset {opset} is newer than the parser of {version} knows ({LARGEST_OPSET[version]})")
    for tensor in proto.graph.initializer:
        _whole(tensor)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise NotParsed(f"invalid model: {str(error).splitlines()[0]}") from error
    _doubles(proto)
    _constants(proto)
    model = Model(proto)
    _fold_batch_norms(proto, FOLDED[version])
    _name_weights(model, native_instancenorm or version != "8.6")
    return model


def _whole(tensor: TensorProto) -> None:
    count = int(np.prod(tensor.dims, dtype=np.int64))
    try:
        whole = not tensor.external_data and numpy_helper.to_array(tensor).size == count
    except Exception:
        whole = False
    if not whole:
        raise NotParsed(f"initializer {tensor.name} has no data")


def _doubles(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _constants(proto: onnx.ModelProto) -> None:
    """Turns Constant nodes into initializers with their output's name, which a refit uses."""
    for node in [node for node in proto.graph.node if node.op_type == "Constant"]:
        value = next((one.t for one in node.attribute if one.name == "value"), None)
        if value is not None:
            tensor = TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            proto.graph.initializer.append(tensor)
            proto.graph.node.remove(node)


def _fold_batch_norms(proto: onnx.ModelProto, prefix: str) -> None:
    """y = x * scale + shift, each (C, 1, ...): new initializers "prefix", "prefix_0", ..."""
    graph = proto.graph
    held = {one.name: one for one in graph.initializer}
    folded_count = 0
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "BatchNormalization" or not all(name in held for name in node.input[1:5]):
            nodes.append(node)
            continue
        gamma, beta, mean, variance = (numpy_helper.to_array(held[name]).astype(np.float64) for name in node.input[1:5])
        epsilon = next((one.f for one in node.attribute if one.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(variance + epsilon)
        names = []
        for value in (scale, beta - mean * scale):
            names.append(prefix if folded_count == 0 else f"{prefix}_{folded_count - 1}")
            folded_count += 1
            column = value.astype(np.float32).reshape(-1, 1, 1)  # images: (N, C, H, W)
            graph.initializer.append(numpy_helper.from_array(column, names[-1]))
        between = f"{node.output[0]}/scaled"
        nodes.append(helper.make_node("Mul", [node.input[0], names[0]], [between], name=f"{node.name}/scale"))
        nodes.append(helper.make_node("Add", [between, names[1]], [node.output[0]], name=f"{node.name}/shift"))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    for one in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(one)


def _name_weights(model: Model, instance_norms: bool) -> None:
    graph = model.proto.graph
    floats = {one.name for one in graph.initializer if one.data_type in FLOATS}
    names_taken: set[str] = set()
    for node in graph.node:
        if node.op_type == "InstanceNormalization" and not instance_norms:
            continue
        taken = [
            name
            for place, name in enumerate(node.input)
            if name in floats and place not in NOT_WEIGHTS.get(node.op_type, ()) and not (node.op_type == "Clip" and place)
        ]
        names_taken.update(taken)
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "InstanceNormalization"):
            together = frozenset(taken)
            for name in taken:
                model.groups[name] = model.groups.get(name, frozenset()) | together
    model.weights = [one.name for one in graph.initializer if one.name in names_taken]
    for name in model.weights:
        model.groups.setdefault(name, frozenset((name,)))

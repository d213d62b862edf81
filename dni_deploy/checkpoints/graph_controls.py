"""Inputs of a graph beside the image, and constant planes behind its channels, as controls: initializers of one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.checkpoints.graph_file import GraphFile
from dni_deploy.errors import MismatchError, escape_name
from dni_deploy.network_controls import Control, group_by_argument

BATCH, CHANNELS = 0, 1


def add_graph_controls(file: GraphFile, controls: Sequence[Control]) -> GraphFile:
    """Makes a graph read its inputs beside the image, or planes behind the image's channels, from initializers.

    Args:
        file: The network.
        controls: Each the name of an input, else a plane, in this order.

    Returns:
        The network with the image as its only input, and an initializer for each control; `file` is not changed.

    Raises:
        MismatchError: An input has another number of values than the controls, or there are no channels for planes.
    """
    if not controls:
        return file
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    return replace(file, model=_ControlAdder(model, file.name, controls).run())


class _ControlAdder:
    """Puts the nodes that make inputs of controls in front of a graph."""

    def __init__(self, model: onnx.ModelProto, name: str, controls: Sequence[Control]) -> None:
        self.model, self.name, self.controls = model, name, controls
        constants = {tensor.name for tensor in model.graph.initializer}
        self.image, *self.others = [value for value in model.graph.input if value.name not in constants]
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> onnx.ModelProto:
        arguments = group_by_argument(self.controls)
        by_name = {value.name: value for value in self.others}
        numbers = {control.name: self.add_number(control) for control in self.controls}
        for argument, names in arguments.items():
            if argument in by_name:
                self.make_input(by_name[argument], [numbers[name] for name in names])
        planes = [numbers[name] for argument, names in arguments.items() if argument not in by_name for name in names]
        if planes:
            self.make_planes(planes)
        kept = [value for value in self.model.graph.input if value.name not in arguments]
        del self.model.graph.input[:]
        self.model.graph.input.extend(kept)
        rest = list(self.model.graph.node)
        del self.model.graph.node[:]
        self.model.graph.node.extend([*self.nodes, *rest])
        return self.model

    def add_number(self, control: Control) -> str:
        """The value of a control, float32 (1,)."""
        self.model.graph.initializer.append(
            numpy_helper.from_array(np.array([control.stored], np.float32), control.weight_name)
        )
        if not control.offset:
            return control.weight_name
        offset = self.add_constant(np.array([control.offset], np.float32), f"{control.weight_name}:offset")
        return self.add_node("Sub", [control.weight_name, offset], f"{control.weight_name}:value")

    def make_input(self, value: onnx.ValueInfoProto, numbers: Sequence[str]) -> None:
        """Makes an input of as many numbers as its shape has; an axis of no fixed size is the batch if it is the first, else 1."""
        tensor, name = value.type.tensor_type, value.name
        sizes = [axis.dim_value for axis in tensor.shape.dim]
        if int(np.prod([size or 1 for size in sizes])) != len(numbers):
            shown = tuple(size or "?" for size in sizes)
            raise MismatchError(
                f"{self.name} takes {escape_name(name, 60)!r} of shape {shown}, which is not of {len(numbers)} numbers; "
                f"write --control {escape_name(name, 60)}:COUNT=LOW..HIGH."
            )
        result = self.join(numbers, 0, f"controls:{name}")
        shape = self.add_constant(np.array([size or 1 for size in sizes], np.int64), f"controls:{name}:shape")
        result = self.add_node("Reshape", [result, shape], f"controls:{name}:reshaped")
        if sizes and not sizes[0]:
            tail = self.add_constant(np.array([size or 1 for size in sizes[1:]], np.int64), f"controls:{name}:tail")
            target = self.join([self.read_size(self.image.name, BATCH), tail], 0, f"controls:{name}:target")
            result = self.add_node("Expand", [result, target], f"controls:{name}:expanded")
        if tensor.elem_type != TensorProto.FLOAT:
            result = self.add_node("Cast", [result], f"controls:{name}:cast", to=tensor.elem_type)
        self.rename_uses(name, result)

    def make_planes(self, numbers: Sequence[str]) -> None:
        """Takes as many channels from the image, and puts planes of these numbers in their place."""
        axes = self.image.type.tensor_type.shape.dim
        channels = axes[CHANNELS].dim_value - len(numbers) if len(axes) == 4 and axes[CHANNELS].dim_value else None
        if channels is not None and channels < 1:
            raise MismatchError(
                f"{self.name} has no input named as the controls {', '.join(control.name for control in self.controls)}, and no "
                f"{len(numbers)} channels besides those of an image: its inputs are "
                f"{', '.join(escape_name(value.name, 60) for value in (self.image, *self.others))}."
            )
        image = self.image.name
        level = self.join(numbers, 0, "controls:levels")
        shape = self.add_constant(np.array([1, len(numbers), 1, 1], np.int64), "controls:levels:shape")
        level = self.add_node("Reshape", [level, shape], "controls:levels:reshaped")
        count = self.add_constant(np.array([len(numbers)], np.int64), "controls:levels:count")
        sizes = [self.read_size(image, BATCH), count, self.read_size(image, 2), self.read_size(image, 3)]
        planes = self.add_node("Expand", [level, self.join(sizes, 0, "controls:planes:size")], "controls:planes")
        joined = self.join([image, planes], CHANNELS, "controls:image")
        if channels is not None:
            axes[CHANNELS].dim_value = channels
        self.rename_uses(image, joined)

    def rename_uses(self, old: str, new: str) -> None:
        for node in self.model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]

    def read_size(self, name: str, axis: int) -> str:
        shape = self.add_node("Shape", [name], "controls:shape")
        index = self.add_constant(np.array([axis], np.int64), f"controls:{axis}:axis")
        return self.add_node("Gather", [shape, index], f"controls:{axis}:size")

    def join(self, names: Sequence[str], axis: int, result: str) -> str:
        return names[0] if len(names) == 1 else self.add_node("Concat", list(names), result, axis=axis)

    def add_constant(self, value: NDArray[Any], name: str) -> str:
        if name not in {tensor.name for tensor in self.model.graph.initializer}:
            self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def add_node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        if output not in {node.output[0] for node in self.nodes}:
            self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

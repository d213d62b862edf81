"""Scale and shift of channels at the layers that a calibration corrects, as nodes of the bundle's graph.

Each is a BatchNormalization with mean 0 and variance 1: whatever folds BatchNorm into the convolution before it folds this one,
too, in the same pass or launch. Its gamma and beta are 1 and 0 for every member, so that the members alone stay what they are,
bit for bit; for blends they come from the calibration table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from engines.lowering.batch_norm import OUTPUT_CHANNEL_AXIS
from engines.lowering.constant_nodes import read_constant_nodes
from engines.lowering.graph_rewriter import read_attributes

SCALE_SUFFIX, SHIFT_SUFFIX = "@calibration.scale", "@calibration.shift"
MEAN_SUFFIX, VARIANCE_SUFFIX = "@calibration.mean", "@calibration.variance"
"""Of the names of the tensors of a corrected layer, behind the name of its value."""

UNCORRECTED_SUFFIX = "@uncalibrated"

NORMALIZATIONS = ("BatchNormalization", "InstanceNormalization")
"""Operators that undo what a scale and a shift before them do."""

SPATIAL_AXES = {2, 3, -1, -2}


class CorrectedLayer(NamedTuple):
    """A value of the graph whose channels get a scale and a shift.

    Attributes:
        value: Name of the value.
        channels: Number of its channels.
        weight: The convolution's weight, where the correction can be written into it and its bias; empty otherwise.
        bias: The convolution's bias, likewise.
        channel_axis: Axis of the output channels in `weight`.
    """

    value: str
    channels: int
    weight: str = ""
    bias: str = ""
    channel_axis: int = 0


class Correction(NamedTuple):
    """What is done to the channels of a layer: y * scale + shift.

    Attributes:
        scale: float64 (C,).
        shift: float64 (C,).
    """

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


class OutputLayer(NamedTuple):
    """Where a scale and a shift of the network's output channels are applied.

    Attributes:
        layer: The last convolution, if only a rearrangement of pixels follows it; else the output itself.
        output_channels: For each channel of the layer, the channel of the output in which it ends.
    """

    layer: CorrectedLayer
    output_channels: tuple[int, ...]


def find_convolutions(graph: onnx.ModelProto, weight_names: Iterable[str]) -> dict[str, CorrectedLayer]:
    """Finds the convolutions that can be corrected: with a weight and a bias of their own, and no normalization right behind.

    Without a bias, no checkpoint of the network could hold the shift.

    Args:
        graph: A bundle's graph.
        weight_names: Names of the initializers that are the family's weights.

    Returns:
        The layers by the name of their value, in graph order.
    """
    weights = set(weight_names)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    readers = Counter(name for node in graph.graph.node for name in node.input)
    normalized = {node.input[0] for node in graph.graph.node if node.op_type in NORMALIZATIONS}
    layers = {}
    for node in graph.graph.node:
        axis = OUTPUT_CHANNEL_AXIS.get(node.op_type)
        if axis is None or len(node.input) < 3 or node.output[0] in normalized:
            continue
        if axis == 1 and read_attributes(node).get("group", 1) != 1:
            continue
        weight, bias = node.input[1:3]
        if {weight, bias} <= weights and readers[weight] == readers[bias] == 1:
            layers[node.output[0]] = CorrectedLayer(node.output[0], shapes[bias][0], weight, bias, axis)
    return layers


def find_output_layer(graph: onnx.ModelProto, weight_names: Iterable[str], output_channels: int) -> OutputLayer:
    """Finds where the output's channels are corrected.

    Args:
        graph: A bundle's graph.
        weight_names: Names of the initializers that are the family's weights.
        output_channels: Number of channels of the output.

    Returns:
        The place.
    """
    convolutions = find_convolutions(graph, weight_names)
    producers = {name: node for node in graph.graph.node for name in node.output}
    readers = Counter(name for node in graph.graph.node for name in node.input)
    constants = read_constant_nodes(graph)
    output = value = graph.graph.output[0].name
    channels = np.arange(output_channels)
    while value == output or readers[value] == 1:
        if value in convolutions:
            return OutputLayer(convolutions[value], tuple(channels.tolist()))
        node = producers.get(value)
        if node is None or not _keeps_channels(node, constants):
            break
        if node.op_type == "DepthToSpace":
            attributes = read_attributes(node)
            copies = attributes["blocksize"] ** 2
            is_outer = attributes.get("mode", b"DCR") == b"DCR"
            channels = np.tile(channels, copies) if is_outer else np.repeat(channels, copies)
        value = node.input[0]
    return OutputLayer(CorrectedLayer(output, output_channels), tuple(range(output_channels)))


def _keeps_channels(node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]) -> bool:
    """Tells whether a node only moves pixels, so that a scale and a shift of channels may be applied before it."""
    if node.op_type == "Slice":
        axes = constants.get(node.input[3]) if len(node.input) > 3 else None
        return axes is not None and set(axes.tolist()) <= SPATIAL_AXES
    return node.op_type in ("DepthToSpace", "Identity")


def insert_calibration_nodes(graph: onnx.ModelProto, layers: Iterable[CorrectedLayer], epsilon: float = 0.0) -> onnx.ModelProto:
    """Inserts the nodes behind the values of the layers.

    Args:
        graph: A bundle's graph; it is not changed.
        layers: The layers.
        epsilon: Of the nodes: 0 for what runs; a small number where they normalize by a measured variance that may be 0.

    Returns:
        A copy of the graph, whose nodes' parameters are initializers without data, named as `make_neutral_tensors` names them.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    corrected = {layer.value: layer for layer in layers}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for index, value in enumerate(node.output):
            if value not in corrected:
                continue
            node.output[index] = f"{value}{UNCORRECTED_SUFFIX}"
            names = parameter_names(value)
            nodes.append(
                helper.make_node(
                    "BatchNormalization", [node.output[index], *names], [value], f"{value}@calibrated", epsilon=epsilon
                )
            )
            model.graph.initializer.extend(
                TensorProto(name=name, dims=(corrected[value].channels,), data_type=TensorProto.FLOAT) for name in names
            )
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return model


def parameter_names(value: str) -> tuple[str, str, str, str]:
    """Names the scale, shift, mean and variance of the node behind a value, in the order of the node's inputs."""
    return f"{value}{SCALE_SUFFIX}", f"{value}{SHIFT_SUFFIX}", f"{value}{MEAN_SUFFIX}", f"{value}{VARIANCE_SUFFIX}"


def make_neutral_tensors(layers: Iterable[CorrectedLayer]) -> dict[str, NDArray[np.float32]]:
    """Makes the tensors that every member has for the nodes: scale 1, shift 0, mean 0, variance 1."""
    return {
        name: np.full(layer.channels, number, np.float32)
        for layer in layers
        for name, number in zip(parameter_names(layer.value), (1.0, 0.0, 0.0, 1.0), strict=True)
    }


def add_neutral_tensors(
    members: Iterable[Mapping[str, NDArray[Any]]], layers: Iterable[CorrectedLayer]
) -> list[dict[str, NDArray[Any]]]:
    """Adds to each member's weights what `make_neutral_tensors` makes."""
    neutral = make_neutral_tensors(layers)
    return [{**tensors, **neutral} for tensors in members]


def fold_correction(layer: CorrectedLayer, correction: Correction, values: dict[str, NDArray[np.float64]]) -> None:
    """Writes a correction into the weight and the bias of its convolution, which `values` holds by name."""
    weight = values[layer.weight]
    along = [1] * weight.ndim
    along[layer.channel_axis] = -1
    values[layer.weight] = weight * correction.scale.reshape(along)
    values[layer.bias] = values[layer.bias] * correction.scale + correction.shift

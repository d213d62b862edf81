"""Reads an ncnn network, .param and .bin, and makes an ONNX graph of it.

A .param is text: a magic number, two counts, then one layer a line (type, name, counts and names of inputs and outputs, numbered
parameters). A .bin has the weights in the order of the layers.

Source: ncnn's wiki, param-and-model-file-structure and operators; modelbin.cpp for how weights are stored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.checkpoints.file_type import CheckpointFile, open_checkpoint_file
from dni_deploy.checkpoints.graph_file import GraphFile, check_model
from dni_deploy.errors import CheckpointError, LimitError, escape_name

PARAM_MAGIC = "7767517"
MAX_PARAM_BYTES = 16 << 20
MAX_LAYERS = 100_000
FLOAT16_TAG, FLOAT32_TAGS, INT8_TAG = 0x01306B47, (0, 0x0002C056), 0x000D4B38
"""The four bytes before a weight; any other number means a table of 256 values."""
ARRAY_KEY = -23300
"""A parameter with the key ARRAY_KEY - k is the array k."""
UNSET = -233
MAX_NUMBER = 1 << 40
"""Larger than any count or size in a network, and far from where converting it to an integer fails."""
OPSET = 17
BINARY_OPERATORS = {0: "Add", 1: "Sub", 2: "Mul", 3: "Div", 4: "Max", 5: "Min", 6: "Pow", 7: "Sub", 8: "Div"}
REVERSED_BINARY = (7, 8)


@dataclass(frozen=True)
class _Layer:
    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, Any]

    def number(self, key: int, default: Any = 0) -> Any:
        """The parameter of a key."""
        value = self.params.get(key, default)
        if isinstance(value, list):
            raise self.error(f"has an array as its parameter {key}")
        return value

    def numbers(self, key: int) -> list[Any]:
        """The array of a key; empty where it is absent."""
        value = self.params.get(key, [])
        return value if isinstance(value, list) else [value]

    def pair(self, width_key: int, default: int = 0) -> tuple[int, int]:
        """(height, width) of a parameter whose height has the key 10 higher and is the width where it is absent."""
        width = int(self.number(width_key, default))
        return int(self.number(width_key + 10, width)), width

    def error(self, what: str) -> CheckpointError:
        """An error about this layer."""
        return CheckpointError(f"The ncnn layer {escape_name(self.name, 60)!r} ({escape_name(self.kind, 40)}) {what}.")


def read_ncnn_file(path: str | os.PathLike[str]) -> GraphFile:
    """Reads a .param and the .bin beside it; nothing in them is run.

    Args:
        path: The .param file.

    Returns:
        The network as ONNX; float16 weights are widened to float32, which is exact.

    Raises:
        CheckpointError: A file is missing or damaged, or has a layer that cannot be translated.
        LimitError: A file is too large.
    """
    with open_checkpoint_file(path, has_graph=True) as file:
        if file.size > MAX_PARAM_BYTES:
            raise LimitError(f"{file.name} has {file.size:,} bytes; the limit for an ncnn .param is {MAX_PARAM_BYTES:,}.")
        text = file.read()
        layers = _parse_layers(text, file.name)
    with open_checkpoint_file(Path(path).with_suffix(".bin"), has_graph=True) as file:
        digest = hashlib.sha256(text + bytes.fromhex(file.sha256())).hexdigest()
        reader = _WeightReader(file)
        model = _GraphBuilder(layers, reader).build()
        if file.tell() != file.size:
            raise CheckpointError(
                f"{file.name} has {file.size:,} bytes, and its .param reads {file.tell():,} of them; the two are not of one network."
            )
    check_model(model, escape_name(os.fspath(path), 100))
    notes = ("Its weights are stored as float16.",) if reader.has_float16 else ()
    return GraphFile(model, os.fspath(path), digest, "ncnn", notes)


def _parse_layers(data: bytes, name: str) -> list[_Layer]:
    try:
        lines = data.decode("ascii").splitlines()
        if lines[0].strip() != PARAM_MAGIC:
            raise ValueError("no magic number")
        layers = [_parse_layer(line.split()) for line in lines[2:] if line.strip()]
        if len(layers) != int(lines[1].split()[0]) or not 0 < len(layers) <= MAX_LAYERS:
            raise ValueError("another number of layers")
    except (ValueError, IndexError):
        raise CheckpointError(f"{name} is damaged or not an ncnn .param in text form.") from None
    return layers


def _parse_layer(fields: list[str]) -> _Layer:
    kind, name, inputs, outputs = fields[0], fields[1], int(fields[2]), int(fields[3])
    blobs, rest = fields[4 : 4 + inputs + outputs], fields[4 + inputs + outputs :]
    if min(inputs, outputs) < 0 or len(blobs) != inputs + outputs:
        raise ValueError("names are missing")
    params: dict[int, Any] = {}
    for field in rest:
        key, equals, value = field.partition("=")
        if not equals:
            raise ValueError("a parameter without a value")
        if int(key) <= ARRAY_KEY:
            params[ARRAY_KEY - int(key)] = [_parse_number(item) for item in value.split(",")[1:]]
        else:
            params[int(key)] = _parse_number(value)
    return _Layer(kind, name, blobs[:inputs], blobs[inputs:], params)


def _parse_number(text: str) -> int | float:
    number = float(text) if any(mark in text for mark in ".eE") else int(text)
    if not abs(number) < MAX_NUMBER:
        raise ValueError("a number out of range")
    return number


class _WeightReader:
    def __init__(self, file: CheckpointFile) -> None:
        self.file, self.has_float16 = file, False

    def read_float32(self, *shape: int) -> NDArray[np.float32]:
        """Numbers without a tag."""
        return np.frombuffer(self._read(4 * self._count(shape)), "<f4").reshape(shape).astype(np.float32)

    def read_weight(self, *shape: int) -> NDArray[np.float32]:
        """A weight, whose first four bytes say how it is stored."""
        tag = int.from_bytes(self._read(4), "little")
        if tag in FLOAT32_TAGS:
            return self.read_float32(*shape)
        if tag != FLOAT16_TAG:
            raise CheckpointError(f"{self.file.name} is quantized or damaged; give the network with float weights.")
        self.has_float16 = True
        count = self._count(shape)
        data = self._read((2 * count + 3) // 4 * 4)
        return np.frombuffer(data, "<f2", count).reshape(shape).astype(np.float32)

    def _count(self, shape: tuple[int, ...]) -> int:
        count = 1
        for side in shape:
            if side <= 0:
                raise CheckpointError(f"{self.file.name} has no weight of the shape {shape}; its .param is damaged.")
            count *= side
        return count

    def _read(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) != count:
            raise CheckpointError(f"{self.file.name} ends before the last weight; it is cut, or not that of the .param.")
        return data


class _GraphBuilder:
    """The layers as ONNX nodes. A layer's weights are `NAME.weight`, `NAME.bias`."""

    def __init__(self, layers: list[_Layer], weights: _WeightReader) -> None:
        self.layers, self.weights = layers, weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.values: dict[str, str] = {}
        self.channels: dict[str, int] = {}
        """Of each value, as far as known."""
        self.vectors: set[str] = set()
        """Values that are one number a channel, (N, C, 1, 1): only such a one may enter an InnerProduct."""
        self.input: tuple[str, int] | None = None

    def build(self) -> onnx.ModelProto:
        """The model, from the one input to the one output that no layer reads."""
        for layer in self.layers:
            translate = _TRANSLATORS.get(layer.kind)
            if translate is None:
                raise layer.error("is of a type that is not supported")
            missing = [name for name in layer.inputs if name not in self.values]
            if missing or not layer.outputs:
                raise layer.error(
                    f"reads {escape_name(missing[0] if missing else 'nothing', 40)!r}, which no layer before it makes"
                )
            result = translate(self, layer)
            for name in layer.outputs:
                self.values[name] = result
        read = {name for layer in self.layers for name in layer.inputs}
        outputs = [name for layer in self.layers for name in layer.outputs if name not in read]
        if self.input is None or len(outputs) != 1:
            raise CheckpointError(f"The ncnn network has {len(outputs)} outputs; it has to have one input and one output.")
        name, channels = self.input
        image = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels or None, "h", "w"])
        result = helper.make_tensor_value_info(self.values[outputs[0]], TensorProto.FLOAT, ["n", None, "y_h", "y_w"])
        graph = helper.make_graph(self.nodes, "ncnn", [image], [result], self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)

    def add(self, operator: str, layer: _Layer, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns its output."""
        output = f"{layer.name}:{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def constant(self, layer: _Layer, name: str, value: NDArray[Any]) -> str:
        """Adds an initializer and returns its name."""
        self.initializers.append(numpy_helper.from_array(value, f"{layer.name}.{name}"))
        return f"{layer.name}.{name}"

    def inputs_of(self, layer: _Layer, count: int) -> list[str]:
        """The values that a layer reads."""
        if len(layer.inputs) != count:
            raise layer.error(f"has {len(layer.inputs)} inputs; {count} are supported")
        return [self.values[name] for name in layer.inputs]

    def keep(self, result: str, *sources: str) -> str:
        """The result of a layer that computes number by number: it has its inputs' channels."""
        for source in sources:
            if source in self.channels:
                self.channels[result] = self.channels[source]
        if all(source in self.vectors for source in sources):
            self.vectors.add(result)
        return result

    def activate(self, layer: _Layer, x: str) -> str:
        """The activation that ncnn fuses into a layer (parameters 9 and 10)."""
        kind, arguments = int(layer.number(9)), layer.numbers(10)
        if kind == 0:
            return x
        if kind == 1:
            result = self.add("Relu", layer, x)
        elif kind == 2:
            result = self.add("LeakyRelu", layer, x, alpha=float(arguments[0]) if arguments else 0.0)
        elif kind == 3 and len(arguments) == 2:
            result = self.clip(layer, x, arguments[0], arguments[1])
        elif kind == 4:
            result = self.add("Sigmoid", layer, x)
        else:
            raise layer.error(f"has the activation {kind}, which is not supported")
        return self.keep(result, x)

    def clip(self, layer: _Layer, x: str, low: float, high: float) -> str:
        """A Clip between two numbers."""
        bounds = [self.constant(layer, name, np.float32(value)) for name, value in (("min", low), ("max", high))]
        return self.keep(self.add("Clip", layer, x, *bounds), x)


def _input(builder: _GraphBuilder, layer: _Layer) -> str:
    if builder.input is not None or layer.inputs:
        raise layer.error("is a second input; a network takes one image")
    builder.input = (layer.outputs[0], int(layer.number(2)))
    builder.channels[layer.outputs[0]] = int(layer.number(2))
    return layer.outputs[0]


def _pass(builder: _GraphBuilder, layer: _Layer) -> str:
    return builder.inputs_of(layer, 1)[0]


def _convolution(builder: _GraphBuilder, layer: _Layer) -> str:
    [x] = builder.inputs_of(layer, 1)
    transposed = layer.kind == "Deconvolution"
    group = int(layer.number(7, 1)) if layer.kind == "ConvolutionDepthWise" else 1
    outputs, (rows, columns), size = int(layer.number(0)), layer.pair(1), int(layer.number(6))
    if layer.number(8) or (layer.number(19) and not transposed):
        raise layer.error("is quantized or has weights that are computed")
    if min(outputs, rows, columns, size, group) < 1 or size % (outputs * rows * columns) or outputs % group:
        raise layer.error("has a number of weights that does not fit its channels and kernel")
    inputs_per_group = size // (outputs * rows * columns)
    weight = builder.weights.read_weight(outputs, inputs_per_group, rows, columns)
    if transposed:  # ncnn has the output channels first, ONNX the input channels
        weight = np.ascontiguousarray(weight.transpose(1, 0, 2, 3))
    arguments = [x, builder.constant(layer, "weight", weight)]
    if layer.number(5):
        arguments.append(builder.constant(layer, "bias", builder.weights.read_float32(outputs)))
    if builder.input is not None and x == builder.input[0] and not builder.input[1]:
        builder.input = (x, inputs_per_group * group)
    attributes: dict[str, Any] = {
        "kernel_shape": [rows, columns], "strides": list(layer.pair(3, 1)), "dilations": list(layer.pair(2, 1)),
        "pads": _read_pads(layer),
    }  # fmt: skip
    if group > 1:
        attributes["group"] = group
    if transposed:
        attributes["output_padding"] = [int(layer.number(19)), int(layer.number(18))]
        if layer.number(20) or layer.number(21):
            raise layer.error("has an output of a fixed size")
    elif layer.number(18):
        raise layer.error("pads with a value that is not 0")
    result = builder.add("ConvTranspose" if transposed else "Conv", layer, *arguments, **attributes)
    builder.channels[result] = outputs
    return builder.activate(layer, result)


def _read_pads(layer: _Layer) -> list[int]:
    """(top, left, bottom, right)"""
    left = int(layer.number(4))
    top, right = int(layer.number(14, left)), int(layer.number(15, left))
    pads = [top, left, int(layer.number(16, top)), right]
    if min(pads) < 0:
        raise layer.error("has a padding that depends on the size of the image")
    return pads


def _inner_product(builder: _GraphBuilder, layer: _Layer) -> str:
    [x] = builder.inputs_of(layer, 1)
    outputs, size = int(layer.number(0)), int(layer.number(2))
    if x not in builder.vectors:
        raise layer.error("multiplies a whole image; it is supported behind a global pooling alone")
    if layer.number(8) or outputs < 1 or size < 1 or size % outputs:
        raise layer.error("is quantized, or has a number of weights that does not fit its channels")
    arguments = [x, builder.constant(layer, "weight", builder.weights.read_weight(outputs, size // outputs, 1, 1))]
    if layer.number(1):
        arguments.append(builder.constant(layer, "bias", builder.weights.read_float32(outputs)))
    result = builder.add("Conv", layer, *arguments, kernel_shape=[1, 1])
    builder.channels[result] = outputs
    builder.vectors.add(result)
    return builder.activate(layer, result)


def _prelu(builder: _GraphBuilder, layer: _Layer) -> str:
    [x] = builder.inputs_of(layer, 1)
    slope = builder.weights.read_float32(int(layer.number(0)), 1, 1)
    return builder.keep(builder.add("PRelu", layer, x, builder.constant(layer, "weight", slope)), x)


def _relu(builder: _GraphBuilder, layer: _Layer) -> str:
    [x] = builder.inputs_of(layer, 1)
    slope = float(layer.number(0))
    result = builder.add("LeakyRelu", layer, x, alpha=slope) if slope else builder.add("Relu", layer, x)
    return builder.keep(result, x)


def _function(operator: str) -> Callable[[_GraphBuilder, _Layer], str]:
    def translate(builder: _GraphBuilder, layer: _Layer) -> str:
        [x] = builder.inputs_of(layer, 1)
        return builder.keep(builder.add(operator, layer, x), x)

    return translate


def _clip(builder: _GraphBuilder, layer: _Layer) -> str:
    [x] = builder.inputs_of(layer, 1)
    largest = float(np.finfo(np.float32).max)
    return builder.clip(layer, x, layer.number(0, -largest), layer.number(1, largest))


def _pooling(builder: _GraphBuilder, layer: _Layer) -> str:
    [x] = builder.inputs_of(layer, 1)
    if not layer.number(4):
        raise layer.error("is not a global pooling, and others are not supported")
    result = builder.add("GlobalAveragePool" if layer.number(0) else "GlobalMaxPool", layer, x)
    builder.vectors.add(result)
    return result


def _scale(builder: _GraphBuilder, layer: _Layer) -> str:
    count = int(layer.number(0))
    if count == UNSET:
        x, scale = builder.inputs_of(layer, 2)
        return builder.keep(builder.add("Mul", layer, x, scale), x)
    [x] = builder.inputs_of(layer, 1)
    result = builder.add("Mul", layer, x, builder.constant(layer, "weight", builder.weights.read_float32(count, 1, 1)))
    if layer.number(1):
        result = builder.add("Add", layer, result, builder.constant(layer, "bias", builder.weights.read_float32(count, 1, 1)))
    return builder.keep(result, x)


def _binary(builder: _GraphBuilder, layer: _Layer) -> str:
    kind = int(layer.number(0))
    if kind not in BINARY_OPERATORS:
        raise layer.error(f"has the operation {kind}, which is not supported")
    if layer.number(1):
        operands = [*builder.inputs_of(layer, 1), builder.constant(layer, "value", np.float32(layer.number(2, 0.0)))]
    else:
        operands = builder.inputs_of(layer, 2)
    sources = operands[:1] if layer.number(1) else operands
    if kind in REVERSED_BINARY:
        operands = operands[::-1]
    return builder.keep(builder.add(BINARY_OPERATORS[kind], layer, *operands), *sources)


def _eltwise(builder: _GraphBuilder, layer: _Layer) -> str:
    kind, factors = int(layer.number(0)), [float(factor) for factor in layer.numbers(1)]
    terms = builder.inputs_of(layer, len(layer.inputs))
    operator = {0: "Mul", 1: "Add", 2: "Max"}.get(kind)
    if operator is None or len(terms) < 2 or (factors and (kind != 1 or len(factors) != len(terms))):
        raise layer.error("is a combination that is not supported")
    sources = list(terms)
    for index, factor in enumerate(factors):
        if factor != 1:
            constant = builder.constant(layer, f"factor{index}", np.float32(factor))
            terms[index] = builder.add("Mul", layer, terms[index], constant)
    result = terms[0]
    for term in terms[1:]:
        result = builder.add(operator, layer, result, term)
    return builder.keep(result, *sources)


def _concat(builder: _GraphBuilder, layer: _Layer) -> str:
    values = builder.inputs_of(layer, len(layer.inputs))
    axis = int(layer.number(0))
    if axis not in (0, -3):  # ncnn's first axis is the channels, after the batch that it does not have
        raise layer.error("joins along an axis that is not the channels")
    return builder.add("Concat", layer, *values, axis=1)


def _crop(builder: _GraphBuilder, layer: _Layer) -> str:
    """Cuts height and width. The size of a second input is that of the first less the offsets on both sides."""
    starts, ends, axes = layer.numbers(9), layer.numbers(10), layer.numbers(11)
    if not starts:
        is_like = len(layer.inputs) == 2
        sizes = [layer.number(key) for key in (3, 4, 5)]
        if layer.number(2) or layer.number(8) or (not is_like and sizes != [UNSET] * 3):
            raise layer.error("cuts to a fixed size, or cuts channels")
        left, top = int(layer.number(0)), int(layer.number(1))
        right, bottom = (left, top) if is_like else (int(layer.number(6)), int(layer.number(7)))
        starts, ends, axes = [top, left], [-bottom, -right], [-2, -1]
    x = builder.inputs_of(layer, len(layer.inputs))[0]
    if not (len(starts) == len(ends) == len(axes)) or any(axis not in (-2, -1, 1, 2) for axis in axes):
        raise layer.error("cuts channels, or does not say where")
    stops = [np.iinfo(np.int64).max if int(end) in (0, UNSET) else int(end) for end in ends]
    numbers = (("starts", [int(start) for start in starts]), ("ends", stops))
    arguments = [builder.constant(layer, name, np.array(value, np.int64)) for name, value in numbers]
    axis_numbers = np.array([axis + 1 if axis > 0 else axis + 4 for axis in map(int, axes)], np.int64)
    return builder.keep(builder.add("Slice", layer, x, *arguments, builder.constant(layer, "axes", axis_numbers)), x)


def _interp(builder: _GraphBuilder, layer: _Layer) -> str:
    [x] = builder.inputs_of(layer, 1)
    kind, rows, columns = int(layer.number(0)), float(layer.number(1, 1.0)), float(layer.number(2, 1.0))
    if kind not in (1, 2, 3) or layer.number(3) or layer.number(4) or layer.number(5) or min(rows, columns) <= 0:
        raise layer.error("enlarges to a fixed size, or in a way that is not supported")
    attributes: dict[str, Any] = {"coordinate_transformation_mode": "align_corners" if layer.number(6) else "half_pixel"}
    if kind == 1:
        attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    elif kind == 2:
        attributes["mode"] = "linear"
    else:
        attributes |= {"mode": "cubic", "cubic_coeff_a": -0.75}
    scales = builder.constant(layer, "scales", np.array([1, 1, rows, columns], np.float32))
    return builder.keep(builder.add("Resize", layer, x, "", scales, **attributes), x)


def _pixel_shuffle(builder: _GraphBuilder, layer: _Layer) -> str:
    [x] = builder.inputs_of(layer, 1)
    mode = "DCR" if layer.number(1) else "CRD"
    return builder.add("DepthToSpace", layer, x, blocksize=int(layer.number(0, 1)), mode=mode)


def _padding(builder: _GraphBuilder, layer: _Layer) -> str:
    [x] = builder.inputs_of(layer, 1)
    top, bottom, left, right, kind = (int(layer.number(key)) for key in range(5))
    if kind not in (0, 1, 2) or layer.number(6) or layer.number(7) or layer.number(8) or min(top, bottom, left, right) < 0:
        raise layer.error("pads channels, or in a way that is not supported")
    pads = builder.constant(layer, "pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    value = [builder.constant(layer, "value", np.float32(layer.number(5, 0.0)))] if kind == 0 else []
    mode = ("constant", "edge", "reflect")[kind]
    return builder.keep(builder.add("Pad", layer, x, pads, *value, mode=mode), x)


_TRANSLATORS: dict[str, Callable[[_GraphBuilder, _Layer], str]] = {
    "Input": _input,
    "Split": _pass,
    "Noop": _pass,
    "Dropout": _pass,
    "Convolution": _convolution,
    "ConvolutionDepthWise": _convolution,
    "Deconvolution": _convolution,
    "InnerProduct": _inner_product,
    "PReLU": _prelu,
    "ReLU": _relu,
    "Sigmoid": _function("Sigmoid"),
    "TanH": _function("Tanh"),
    "Clip": _clip,
    "Pooling": _pooling,
    "Scale": _scale,
    "BinaryOp": _binary,
    "Eltwise": _eltwise,
    "Concat": _concat,
    "Crop": _crop,
    "Interp": _interp,
    "PixelShuffle": _pixel_shuffle,
    "Padding": _padding,
}

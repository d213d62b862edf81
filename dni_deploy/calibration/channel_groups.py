"""Which channels of a network may be put into another order without changing what it computes, found on its graph.

Every axis of every tensor in the graph is a sequence of channel groups, at first one group per axis. Each operator ties the axes
of its inputs and outputs: the channels of what is added belong together, a concatenation is one sequence after the other, one
half of a split is a part. Where two sequences that are tied differ, the larger groups are cut until they agree. What remains
is a set of groups whose channels may be permuted freely, each in all the places where it occurs.

The image's own channels keep their order, and so does every axis that an operator uses in a way that is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

ELEMENTWISE_OPERATORS = frozenset(
    (
        "Abs", "Add", "And", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Expand", "Floor",
        "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less",
        "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu",
        "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where",
    )
)  # fmt: skip
"""Each number of the output depends on the numbers at its own place in the inputs, which are broadcast."""
CHANNELWISE_OPERATORS = frozenset(
    ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample", "LpPool", "MaxPool")
)
"""Each channel of the first input becomes one of the output, in the same way for all."""
ALONG_AXIS_OPERATORS = frozenset(("LogSoftmax", "LpNormalization", "Softmax"))
"""The same for every permutation along the axis that they normalize."""
REDUCTIONS = frozenset(
    (
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
        "ReduceSumSquare",
    )
)  # fmt: skip
RESHAPES = frozenset(("Flatten", "Reshape", "Squeeze", "Unsqueeze"))
PER_CHANNEL_PARAMETERS = {"BatchNormalization": 4, "InstanceNormalization": 2}
"""Operator -> number of parameters after the input, each with one number per channel."""


@dataclass(frozen=True)
class Placement:
    """Where a group occurs in a weight.

    Attributes:
        axis: Of the weight.
        start: The group's first number on that axis.
        group: Index of the group.
        width: Adjacent numbers that each of its channels has on that axis.
    """

    axis: int
    start: int
    group: int
    width: int


@dataclass(frozen=True)
class ChannelGroups:
    """Groups of channels that may be permuted.

    Attributes:
        sizes: Channels in each group, at least 2, in the order in which the graph computes them.
        placements: Where groups occur, by the name of the weight. Weights with no group are left out.
    """

    sizes: tuple[int, ...]
    placements: Mapping[str, tuple[Placement, ...]]


def find_channel_groups(graph: onnx.ModelProto, names: Iterable[str]) -> ChannelGroups:
    """Finds the groups of channels that may be permuted.

    Args:
        graph: A network in the operators of ONNX; not changed.
        names: The initializers that are weights. Every other constant stays as it is, so that channels for which it differs stay
            in their places.

    Returns:
        The groups that occur in weights.
    """
    names = list(names)
    analysis = _Analysis(onnx.shape_inference.infer_shapes(graph, data_prop=True), set(names))
    analysis.run()
    return analysis.collect_groups(names)


class _Group:
    """Channels that are permuted together; `parts` is what it was found to consist of, `joined` counts the groups that it is."""

    def __init__(self, size: int, is_fixed: bool = False) -> None:
        self.size, self.is_fixed, self.joined = size, is_fixed, 1
        self.parts: _Axis | None = None


_Axis = list[tuple[_Group, int]]
"""The groups along an axis, each with the adjacent places that one of its channels takes."""


def _resolve(axis: _Axis) -> _Axis:
    """Replaces each group by its parts, down to groups that have none."""
    resolved: _Axis = []
    for group, width in axis:
        if group.parts is None:
            resolved.append((group, width))
        else:
            group.parts = _resolve(group.parts)
            resolved += _widen(group.parts, width)
    return resolved


def _length(axis: _Axis) -> int:
    return sum(group.size * width for group, width in axis)


def _widen(axis: _Axis, width: int) -> _Axis:
    return [(group, inner * width) for group, inner in axis]


def _fix(axis: _Axis | None) -> None:
    for group, _ in _resolve(axis or []):
        group.is_fixed = True


def _divide(group: _Group, *parts: tuple[int, int]) -> None:
    """Cuts a group into new ones of these sizes and widths."""
    group.parts = [(_Group(size, group.is_fixed), width) for size, width in parts]


def _tie(one: _Axis | None, other: _Axis | None) -> None:
    """Makes two axes one: they are permuted alike from now on, or not at all."""
    if one is None or other is None or _length(one) != _length(other):
        _fix(one)
        _fix(other)
        return
    while True:
        pairs = zip_longest(_resolve(one), _resolve(other))
        difference = next(((ours, theirs) for ours, theirs in pairs if ours != theirs), None)
        if difference is None:
            return
        # Equal lengths, and equal up to here: on both sides there is a group.
        if not _reconcile(*sorted(difference, key=lambda run: run[1])):
            _fix(one)
            _fix(other)
            return


def _reconcile(narrow: tuple[_Group, int], wide: tuple[_Group, int]) -> bool:
    """Cuts or joins two groups that begin at the same place; False where they cannot agree."""
    (group, width), (other, other_width) = narrow, wide
    factor, rest = divmod(other_width, width)
    if group is other or rest or group.size < factor:
        return False
    if factor > 1:
        whole = group.size - group.size % factor
        _divide(group, (whole // factor, factor), *([(group.size - whole, 1)] if whole < group.size else []))
    elif group.size == other.size:
        small, large = sorted((group, other), key=lambda each: each.joined)  # keeps the chains of parts short
        large.is_fixed, large.joined = small.is_fixed or large.is_fixed, small.joined + large.joined
        small.parts = [(large, 1)]
    else:
        small, large = sorted((group, other), key=lambda each: each.size)
        _divide(large, (small.size, 1), (large.size - small.size, 1))
    return True


class _Analysis:
    """The axes of all tensors of a graph, and what its operators tie."""

    def __init__(self, model: onnx.ModelProto, weights: set[str]) -> None:
        self.graph, self.weights = model.graph, weights
        self.shapes: dict[str, list[int | str | None]] = {}
        self.axes: dict[str, list[_Axis | None]] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.repeats: set[tuple[str, int]] = set()
        self.claimed: set[tuple[str, int]] = set()
        for value in (*self.graph.input, *self.graph.output, *self.graph.value_info):
            if value.type.tensor_type.HasField("shape"):
                dimensions = value.type.tensor_type.shape.dim
                self._add(value.name, [dim.dim_value or dim.dim_param or None for dim in dimensions])
        for tensor in self.graph.initializer:
            self._add(tensor.name, list(tensor.dims))
            if tensor.name not in weights:
                self._add_constant(tensor.name, tensor)
        for node in self.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._add(node.output[0], list(node.attribute[0].t.dims))
                self._add_constant(node.output[0], node.attribute[0].t)

    def _add(self, name: str, shape: Sequence[Any]) -> None:
        self.shapes[name] = list(shape)
        self.axes[name] = [[(_Group(size), 1)] if isinstance(size, int) and size else None for size in shape]

    def _add_constant(self, name: str, tensor: onnx.TensorProto) -> None:
        """Fixes the axes along which a constant's numbers differ; the others are free, apart at each place of use."""
        value = self.constants[name] = numpy_helper.to_array(tensor)
        for axis in range(value.ndim if value.size else 0):
            if np.array_equal(value, np.broadcast_to(value.take([0], axis), value.shape)):
                self.repeats.add((name, axis))
            else:
                _fix(self.axes[name][axis])

    def run(self) -> None:
        """Goes through all nodes; the order has no part in the result but for the numbering of the groups."""
        for value in (*self.graph.input, *self.graph.output):
            if value.name not in self.weights:
                self._fix_all(value.name)
        for node in self.graph.node:
            self.claimed = set()
            handler = self._find_handler(node)
            if handler is not None:
                handler(node)
            for name in (*node.input, *node.output):
                for axis, groups in enumerate(self.axes.get(name, [])):
                    if (name, axis) not in self.claimed:
                        _fix(groups)
        if any(attribute.HasField("g") or attribute.graphs for node in self.graph.node for attribute in node.attribute):
            for name in self.axes:  # a subgraph reads tensors of the graph without naming them as inputs
                self._fix_all(name)

    def _fix_all(self, name: str) -> None:
        for axis in self.axes.get(name, []):
            _fix(axis)

    def _find_handler(self, node: onnx.NodeProto) -> Callable[[onnx.NodeProto], None] | None:
        if node.domain not in ("", "ai.onnx") or any(name and name not in self.axes for name in (*node.input, *node.output)):
            return None
        operator = node.op_type
        if operator in ELEMENTWISE_OPERATORS:
            return self._tie_elementwise
        if operator in CHANNELWISE_OPERATORS:
            return self._tie_channelwise
        if operator in ALONG_AXIS_OPERATORS:
            return self._tie_along_axis
        if operator in REDUCTIONS:
            return self._tie_reduction
        if operator in RESHAPES:
            return self._tie_reshape
        if operator in PER_CHANNEL_PARAMETERS:
            return self._tie_per_channel
        handlers = {
            "Concat": self._tie_concat,
            "Conv": self._tie_convolution,
            "ConvTranspose": self._tie_convolution,
            "DepthToSpace": self._tie_depth_to_space,
            "Gemm": self._tie_gemm,
            "LayerNormalization": self._tie_layer_norm,
            "MatMul": self._tie_matmul,
            "Pad": self._tie_pad,
            "Resize": self._tie_resize,
            "Shape": self._tie_nothing,
            "Slice": self._tie_slice,
            "SpaceToDepth": self._tie_space_to_depth,
            "Split": self._tie_split,
            "Transpose": self._tie_transpose,
        }
        return handlers.get(operator)

    def collect_groups(self, names: Sequence[str]) -> ChannelGroups:
        """Returns the groups that are in weights and not fixed, numbered in the order of the nodes that read them."""
        read = dict.fromkeys(name for node in self.graph.node for name in node.input if name in self.weights)
        numbers: dict[_Group, int] = {}
        placements: dict[str, list[Placement]] = {}
        for name in read:
            for axis, groups in enumerate(self.axes[name]):
                start = 0
                for group, width in _resolve(groups or []):
                    if group.size > 1 and not group.is_fixed:
                        number = numbers.setdefault(group, len(numbers))
                        placements.setdefault(name, []).append(Placement(axis, start, number, width))
                    start += group.size * width
        ordered = {name: tuple(placements[name]) for name in names if name in placements}
        return ChannelGroups(tuple(group.size for group in numbers), ordered)

    # What follows says of each operator which axes it ties. An axis that it does not ask for is fixed.

    def _axis(self, name: str, axis: int) -> _Axis | None:
        """The groups along an axis of an input or output, which is marked as dealt with."""
        axis += len(self.axes[name]) if axis < 0 else 0
        self.claimed.add((name, axis))
        if (name, axis) in self.repeats:
            return [(_Group(int(self.shapes[name][axis] or 0)), 1)]
        return self.axes[name][axis]

    def _tie_axes(self, one: str, axis: int, other: str, other_axis: int) -> None:
        _tie(self._axis(one, axis), self._axis(other, other_axis))

    def _rank(self, name: str) -> int:
        return len(self.shapes[name])

    def _tie_nothing(self, node: onnx.NodeProto) -> None:
        for axis in range(self._rank(node.input[0])):
            self._axis(node.input[0], axis)

    def _tie_broadcast(self, names: Iterable[str], output: str, first: int = 1) -> None:
        """Ties the axes of inputs and output, from the `first` one counted from the end; an axis of one number is repeated."""
        for name in names:
            for place in range(first, self._rank(name) + 1):
                if self.shapes[name][-place] == 1:
                    self._axis(name, -place)
                else:
                    self._tie_axes(name, -place, output, -place)

    def _tie_elementwise(self, node: onnx.NodeProto) -> None:
        inputs = [name for name in node.input if name]
        if node.op_type == "Expand":
            inputs = inputs[:1]
        for place in range(self._rank(node.output[0])):
            self._axis(node.output[0], place)
        self._tie_broadcast(inputs, node.output[0])

    def _tie_channelwise(self, node: onnx.NodeProto) -> None:
        if len(node.output) == 1:  # MaxPool's second output has indices, which know the channel
            self._tie_axes(node.input[0], 1, node.output[0], 1)

    def _tie_along_axis(self, node: onnx.NodeProto) -> None:
        for axis in range(self._rank(node.output[0])):
            self._tie_axes(node.input[0], axis, node.output[0], axis)

    def _tie_per_channel(self, node: onnx.NodeProto) -> None:
        self._tie_axes(node.input[0], 1, node.output[0], 1)
        for name in node.input[1 : 1 + PER_CHANNEL_PARAMETERS[node.op_type]]:
            self._tie_axes(name, 0, node.output[0], 1)

    def _tie_layer_norm(self, node: onnx.NodeProto) -> None:
        output = node.output[0]
        if len(node.output) == 1:
            self._tie_along_axis(node)
            self._tie_broadcast([name for name in node.input[1:3] if name], output)

    def _tie_convolution(self, node: onnx.NodeProto) -> None:
        """Ties a convolution; with several groups, these may change places as wholes."""
        image, weight, output = node.input[0], node.input[1], node.output[0]
        count = _get_attribute(node, "group", 1)
        is_transposed = node.op_type == "ConvTranspose"
        inputs, outputs = (0, 1) if is_transposed else (1, 0)  # axes of the weight
        if count == 1:
            self._tie_axes(weight, inputs, image, 1)
            self._tie_axes(weight, outputs, output, 1)
        else:
            groups: _Axis = [(_Group(count), 1)]
            for name, axis in ((image, 1), (output, 1), (weight, 0)):
                size = self.shapes[name][axis]
                width = size // count if isinstance(size, int) else 1
                _tie(self._axis(name, axis), _widen(groups, width))
            # The weight's other axis is that inside a group.
        for bias in node.input[2:3]:
            if bias:
                self._tie_axes(bias, 0, output, 1)

    def _tie_gemm(self, node: onnx.NodeProto) -> None:
        one, other, output = node.input[0], node.input[1], node.output[0]
        row, inner = (1, 0) if _get_attribute(node, "transA", 0) else (0, 1)
        other_inner, column = (1, 0) if _get_attribute(node, "transB", 0) else (0, 1)
        self._tie_axes(one, inner, other, other_inner)
        self._tie_axes(one, row, output, 0)
        self._tie_axes(other, column, output, 1)
        self._tie_broadcast([name for name in node.input[2:3] if name], output)

    def _tie_matmul(self, node: onnx.NodeProto) -> None:
        one, other, output = node.input[0], node.input[1], node.output[0]
        if self._rank(one) < 2 or self._rank(other) < 2:
            return
        self._tie_axes(one, -1, other, -2)
        self._tie_axes(one, -2, output, -2)
        self._tie_axes(other, -1, output, -1)
        self._tie_broadcast((one, other), output, 3)

    def _tie_transpose(self, node: onnx.NodeProto) -> None:
        rank = self._rank(node.output[0])
        for axis, source in enumerate(_get_attribute(node, "perm", list(range(rank))[::-1])):
            self._tie_axes(node.input[0], source, node.output[0], axis)

    def _tie_concat(self, node: onnx.NodeProto) -> None:
        self._tie_sequence(node.input, node.output[0], _get_attribute(node, "axis", 0))

    def _tie_split(self, node: onnx.NodeProto) -> None:
        self._tie_sequence(node.output, node.input[0], _get_attribute(node, "axis", 0))

    def _tie_sequence(self, parts: Iterable[str], whole: str, axis: int) -> None:
        """Ties an axis to the same axis of its parts, one after the other, and each other axis to the parts' own."""
        axis %= self._rank(whole)
        axes = [self._axis(part, axis) for part in parts]
        known = [groups for groups in axes if groups is not None]
        _tie([run for groups in known for run in groups] if len(known) == len(axes) else None, self._axis(whole, axis))
        for part in parts:
            for other in range(self._rank(whole)):
                if other != axis:
                    self._tie_axes(part, other, whole, other)
        if len(known) < len(axes):
            for groups in known:
                _fix(groups)

    def _tie_slice(self, node: onnx.NodeProto) -> None:
        image, output, rank = node.input[0], node.output[0], self._rank(node.output[0])
        starts, ends, axes, steps = ([self.constants.get(name) for name in node.input[1:]] + [None, None])[:4]
        if starts is None or ends is None or any(name and name not in self.constants for name in node.input[3:]):
            return
        places = {int(axis) % rank: index for index, axis in enumerate(range(len(starts)) if axes is None else axes)}
        for axis in range(rank):
            size = self.shapes[image][axis]
            if axis not in places:
                self._tie_axes(image, axis, output, axis)
            elif isinstance(size, int) and (steps is None or steps[places[axis]] == 1):
                start, end, _ = slice(int(starts[places[axis]]), int(ends[places[axis]])).indices(size)
                before, after = ([(_Group(count), 1)] if count > 0 else [] for count in (start, size - end))
                _tie(self._axis(image, axis), [*before, *(self._axis(output, axis) or []), *after])

    def _tie_pad(self, node: onnx.NodeProto) -> None:
        image, output, rank = node.input[0], node.output[0], self._rank(node.output[0])
        pads = self.constants.get(node.input[1])
        axes = self.constants.get(node.input[3]) if len(node.input) > 3 and node.input[3] else np.arange(rank)
        if pads is None or axes is None or pads.size != 2 * axes.size:
            return
        padded = {int(axis) % rank for axis, amounts in zip(axes, pads.reshape(2, -1).T, strict=True) if amounts.any()}
        for axis in set(range(rank)) - padded:
            self._tie_axes(image, axis, output, axis)

    def _tie_resize(self, node: onnx.NodeProto) -> None:
        image, output = node.input[0], node.output[0]
        if _get_attribute(node, "coordinate_transformation_mode", b"") != b"tf_crop_and_resize":
            for axis in (0, 1):
                if self.shapes[image][axis] == self.shapes[output][axis]:
                    self._tie_axes(image, axis, output, axis)

    def _tie_depth_to_space(self, node: onnx.NodeProto) -> None:
        block = _get_attribute(node, "blocksize", 1) ** 2
        inside = self._axis(node.output[0], 1)
        if inside is not None:
            is_crd = _get_attribute(node, "mode", b"DCR") == b"CRD"
            _tie(self._axis(node.input[0], 1), _widen(inside, block) if is_crd else inside * block)

    def _tie_space_to_depth(self, node: onnx.NodeProto) -> None:
        inside = self._axis(node.input[0], 1)
        if inside is not None:
            _tie(self._axis(node.output[0], 1), inside * _get_attribute(node, "blocksize", 1) ** 2)

    def _tie_reduction(self, node: onnx.NodeProto) -> None:
        """Ties the axes that stay. The others may be in any order: a sum, mean or maximum does not see it."""
        image, output, rank = node.input[0], node.output[0], self._rank(node.input[0])
        axes = _get_attribute(node, "axes", None)
        if len(node.input) > 1 and node.input[1]:
            constant = self.constants.get(node.input[1])
            if constant is None:
                return
            axes = constant.tolist()
        if not axes:
            return
        reduced = {axis % rank for axis in axes}
        kept = [axis for axis in range(rank) if axis not in reduced]
        keeps_rank = _get_attribute(node, "keepdims", 1)
        for axis in reduced:
            self._axis(image, axis)
            if keeps_rank:
                self._axis(output, axis)
        for place, axis in enumerate(kept):
            self._tie_axes(image, axis, output, axis if keeps_rank else place)

    def _tie_reshape(self, node: onnx.NodeProto) -> None:
        """Ties equal axes from the front and from the back, and between them axes that are cut into several or joined."""
        image, output = node.input[0], node.output[0]
        ours, theirs = self.shapes[image], self.shapes[output]
        front = 0
        while front < min(len(ours), len(theirs)) and ours[front] == theirs[front] is not None:
            self._tie_axes(image, front, output, front)
            front += 1
        back = 0
        while back < min(len(ours), len(theirs)) - front and ours[-1 - back] == theirs[-1 - back] is not None:
            self._tie_axes(image, -1 - back, output, -1 - back)
            back += 1
        self._tie_factors(image, range(front, len(ours) - back), output, range(front, len(theirs) - back))

    def _tie_factors(self, image: str, ours: Sequence[int], output: str, theirs: Sequence[int]) -> None:
        ours, theirs = list(ours), list(theirs)
        while ours or theirs:
            for name, axes in ((image, ours), (output, theirs)):
                while axes and self.shapes[name][axes[0]] == 1:
                    self._axis(name, axes.pop(0))
            if not ours or not theirs:
                return
            if self._tie_factor(image, ours, output, theirs) or self._tie_factor(output, theirs, image, ours):
                continue
            return

    def _tie_factor(self, one: str, ours: list[int], other: str, theirs: list[int]) -> bool:
        """Ties one axis to several that it is cut into, the first of which may be permuted; removes them from the lists."""
        size = self.shapes[one][ours[0]]
        for count in range(1, len(theirs) + 1):
            factors = [self.shapes[other][axis] for axis in theirs[:count]]
            if not isinstance(size, int) or not all(isinstance(factor, int) for factor in factors):
                return False
            if prod(factors) == size:  # type: ignore[arg-type]
                inner = size // factors[0]  # type: ignore[operator]
                first = self._axis(other, theirs[0])
                _tie(self._axis(one, ours[0]), None if first is None else _widen(first, inner))
                for axis in theirs[1:count]:
                    _fix(self._axis(other, axis))
                del ours[0], theirs[:count]
                return True
        return False


def _get_attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default

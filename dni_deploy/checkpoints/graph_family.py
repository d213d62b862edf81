"""A family of files with graphs: one graph, and each member's weights by their place in it.

Exporters number nodes, tensors and initializers as they like, so nothing is compared by name. Each graph is brought into one order,
from its output back to its input, and the graphs are compared node by node. A constant is then known by its place: the node and the
input where it is read. Two places share a weight where they share it in every member.

A float constant is a weight where it is a parameter of its operator (PARAMETER_INPUTS), whatever its values, and where its values
differ between the members, if blending them means something there (BLENDABLE_INPUTS). Every other constant has to be the same in all
members, and stays in the graph as it is.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family, check_member_names
from dni_deploy.checkpoints.graph_controls import add_graph_controls
from dni_deploy.checkpoints.graph_file import GraphFile
from dni_deploy.checkpoints.ncnn_file import read_ncnn_file
from dni_deploy.checkpoints.onnx_file import read_onnx_file
from dni_deploy.errors import CheckpointError, MismatchError, UsageError, escape_name
from dni_deploy.network_controls import CONTROL_PREFIX, Control
from dni_deploy.utils.opset import MIN_OPSET

INPUT_NAME, OUTPUT_NAME = "x", "y"
PARAMETER_INPUTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
    "Gather": (0,),
    "GRU": (1, 2, 3),
    "LSTM": (1, 2, 3),
    "RNN": (1, 2, 3),
}
"""Operator -> the inputs that are learned wherever they are constant floats."""
BLENDABLE_INPUTS: dict[str, tuple[int, ...] | None] = {
    **PARAMETER_INPUTS,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Sum", "Concat", "Einsum"), None),
    **dict.fromkeys(("Cast", "Expand", "Flatten", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"), (0,)),
    **dict.fromkeys(("Abs", "Exp", "Neg", "Pow", "Reciprocal", "Sigmoid", "Softplus", "Sqrt", "Tanh"), (0,)),
    **dict.fromkeys(("ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"), (0,)),
}
"""Operator -> the inputs where constant floats that differ between members are learned, too; None: all of them."""
INPUT_NOUNS = {
    "Conv": ("", "weight", "bias"),
    "ConvTranspose": ("", "weight", "bias"),
    "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
    "InstanceNormalization": ("", "weight", "bias"),
    "LayerNormalization": ("", "weight", "bias"),
    "GroupNormalization": ("", "weight", "bias"),
    "PRelu": ("", "weight"),
}
_MEANINGLESS_NAME = re.compile(r"[\d.:/_]*|onnx::.*|.*Constant.*|.*_output_\d+", re.IGNORECASE)
_FOLDED_NAME = re.compile(r"onnx::Conv(Transpose)?_\d+|.*\.weight_bias")
"""Names that PyTorch's two exporters give what they compute when they fold a BatchNorm into a convolution. The newer one keeps
the names of a convolution that has a bias already, which cannot be seen."""
FOLDED_MESSAGE = (
    "The exporter folded BatchNorm into the convolutions, so the blend is one of folded weights; "
    "it is not what blending the checkpoints gives."
)


@dataclass(frozen=True)
class GraphFamily:
    """One graph, and the members' weights under the names that it has for them.

    Attributes:
        graph: float32 `x` -> `y`, with the first member's weights, valid ONNX.
        family: The members; every tensor is an initializer of the graph.
        format: Of the files, "onnx" or "ncnn".
    """

    graph: onnx.ModelProto
    family: Family
    format: str


@dataclass(frozen=True)
class _Constant:
    """A constant of one file: the name of the initializer, or of the node's output that it was."""

    name: str
    value: NDArray[Any]


@dataclass
class _OrderedGraph:
    """The nodes on which the output depends, each after those that it reads, in an order that names have no part in."""

    file: GraphFile
    model: onnx.ModelProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    sources: list[list[Any]] = field(default_factory=list)
    output: Any = None

    @property
    def opset(self) -> int:
        """Of the ONNX standard's operators."""
        return _read_opset(self.model)


def read_graph_files(members: Mapping[str, str | os.PathLike[str]], controls: Sequence[Control] = ()) -> dict[str, GraphFile]:
    """Reads files with graphs, by the members' names.

    Args:
        members: The files, by the members' names.
        controls: What their networks take beside the image, as `add_graph_controls` takes it.

    Returns:
        The networks. The errors are those of `read_onnx_file`, `read_ncnn_file` and `add_graph_controls`.
    """
    check_member_names(members)
    files = {
        name: read_ncnn_file(path) if os.fspath(path).lower().endswith(".param") else read_onnx_file(path)
        for name, path in members.items()
    }
    return {name: add_graph_controls(file, controls) for name, file in files.items()}


def read_graph_family(members: Mapping[str, GraphFile], opset: int | None = None) -> GraphFamily:
    """Makes a family of files with graphs.

    Args:
        members: The files, by the members' names.
        opset: The lowest opset of the graph; None for MIN_OPSET. Files of a newer one keep theirs.

    Returns:
        The family and its graph.

    Raises:
        UsageError: The opset is older than the files'.
        MismatchError: The graphs differ, or a constant that cannot be blended does; the message names the first such node.
        CheckpointError: A file has not one image in and one out, or cannot be converted to the opset.
        InputError: A weight is not finite.
    """
    graphs = {name: _order_graph(file, opset or MIN_OPSET) for name, file in members.items()}
    names = list(graphs)
    first = graphs[names[0]]
    if opset is not None and opset < first.opset:
        raise UsageError(f"{first.file.name} is of opset {first.opset}; a lower one than that cannot be made of it.")
    for name in names[1:]:
        _compare_structure(names[0], first, name, graphs[name])
    weights, constants = _divide_constants(graphs)
    weight_names = _name_weights(first, weights)
    checkpoints = {}
    for index, (name, graph) in enumerate(graphs.items()):
        tensors = {weight_names[key]: places[0].values[index] for key, places in weights.items()}
        for tensor in tensors.values():
            tensor.setflags(write=False)
        checkpoints[name] = Checkpoint(tensors, graph.file.source, graph.file.sha256, None, graph.file.notes)
    family = Family.from_checkpoints(checkpoints)
    if any(_FOLDED_NAME.fullmatch(key[0]) for key in weights):
        family = Family(family.members, (*family.notes, FOLDED_MESSAGE))
    place_names = {(place.node, place.input): weight_names[key] for key, places in weights.items() for place in places}
    graph_model = _build_graph(first, place_names, constants, family.members[0].checkpoint.tensors)
    return GraphFamily(graph_model, family, first.file.format)


def _read_opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _order_graph(file: GraphFile, opset: int) -> _OrderedGraph:
    model = file.model
    if _read_opset(model) < opset:
        try:
            model = onnx.version_converter.convert_version(model, opset)
        except Exception:  # the converter raises RuntimeError, and others for operators without an adapter
            raise CheckpointError(
                f"{file.name} is of opset {_read_opset(file.model)} and cannot be converted to {opset}; export it again with opset {opset}."
            ) from None
    graph = _OrderedGraph(file, model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in constants]
    if len(images) != 1 or len(model.graph.output) != 1:
        raise CheckpointError(
            f"{file.name} has {len(images)} inputs and {len(model.graph.output)} outputs; "
            "a family's networks have one image in and one out"
            + (
                f", and numbers beside it as controls: --control {escape_name(images[1].name, 60)}=LOW..HIGH."
                if images[1:]
                else "."
            )
        )
    _Orderer(graph, images[0].name, constants).run(model.graph.output[0].name)
    return graph


class _Orderer:
    """Fills an _OrderedGraph, depth first from the output. Not recursive: networks are deeper than Python's stack."""

    def __init__(self, graph: _OrderedGraph, image: str, tensors: dict[str, TensorProto]) -> None:
        self.graph, self.image, self.tensors = graph, image, tensors
        self.producers = {name: (node, index) for node in graph.model.graph.node for index, name in enumerate(node.output)}
        self.places: dict[int, int] = {}
        self.constants: dict[str, _Constant] = {}

    def run(self, output: str) -> None:
        output = self.resolve(output)
        if output == self.image or output in self.tensors:
            raise CheckpointError(f"{self.graph.file.name} has no network: its output is its input or a constant.")
        stack = [(self.find_producer(output)[0], False)]
        while stack:
            node, is_ready = stack.pop()
            if id(node) in self.places:
                continue
            if is_ready:
                self.places[id(node)] = len(self.graph.nodes)
                self.graph.nodes.append(node)
                self.graph.sources.append([self.find_source(name) for name in node.input])
                continue
            stack.append((node, True))
            for name in reversed([self.resolve(name) for name in node.input if name]):
                if name != self.image and not self.is_constant(name):
                    stack.append((self.find_producer(name)[0], False))
        self.graph.output = self.find_source(output)

    def resolve(self, name: str) -> str:
        """The name behind Identity nodes: exporters put them where two layers have equal weights."""
        while name in self.producers and self.producers[name][0].op_type == "Identity":
            name = self.producers[name][0].input[0]
        return name

    def find_producer(self, name: str) -> tuple[onnx.NodeProto, int]:
        if name not in self.producers:
            raise CheckpointError(f"{self.graph.file.name} reads {escape_name(name, 60)!r}, which nothing in it makes.")
        return self.producers[name]

    def is_constant(self, name: str) -> bool:
        return name in self.tensors or (name in self.producers and self.producers[name][0].op_type == "Constant")

    def find_source(self, name: str) -> Any:
        name = self.resolve(name)
        if not name:
            return None
        if name == self.image:
            return INPUT_NAME
        if self.is_constant(name):
            if name not in self.constants:
                self.constants[name] = _Constant(name, self.read_constant(name))
            return self.constants[name]
        node, index = self.producers[name]
        return self.places[id(node)], index

    def read_constant(self, name: str) -> NDArray[Any]:
        try:
            if name in self.tensors:
                return np.array(numpy_helper.to_array(self.tensors[name]), order="C")
            return _read_constant_node(self.producers[name][0])
        except Exception:  # onnx raises several kinds on data that does not fit the shape
            raise CheckpointError(f"{self.graph.file.name} is damaged: {escape_name(name, 60)!r} cannot be read.") from None


def _read_constant_node(node: onnx.NodeProto) -> NDArray[Any]:
    [attribute] = node.attribute
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return np.array(numpy_helper.to_array(value), order="C")
    kind = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}[
        attribute.name
    ]
    return np.array(value, kind)


def _compare_structure(first_name: str, first: _OrderedGraph, name: str, other: _OrderedGraph) -> None:
    """Raises MismatchError at the first node, from the input on, in which two graphs differ; constants are compared later."""
    prefix = f"Member {name!r} has another graph than {first_name!r}: "
    if first.opset != other.opset:
        raise MismatchError(f"{prefix}it is of opset {other.opset} instead of {first.opset}. Export all members in one way.")
    for index, (node, twin) in enumerate(zip(first.nodes, other.nodes, strict=False)):
        where = f"at {_describe_node(node, index)} "
        if node.op_type != twin.op_type:
            raise MismatchError(f"{prefix}{where}it has {_describe_node(twin, index)}. {_ONE_NETWORK}")
        attribute = _find_attribute_difference(node, twin)
        if attribute is not None:
            raise MismatchError(f"{prefix}{where}{attribute}. {_ONE_NETWORK}")
        if len(node.output) != len(twin.output) or not _are_alike(first.sources[index], other.sources[index]):
            raise MismatchError(f"{prefix}{where}the inputs come from elsewhere. {_ONE_NETWORK}")
    if len(first.nodes) != len(other.nodes) or first.output != other.output:
        raise MismatchError(f"{prefix}it has {len(other.nodes)} nodes instead of {len(first.nodes)}. {_ONE_NETWORK}")


_ONE_NETWORK = "Blend only files of one network that were exported in one way."


def _describe_node(node: onnx.NodeProto, index: int) -> str:
    return f"node {index} ({node.op_type}{f' {escape_name(node.name, 60)!r}' if node.name else ''})"


def _find_attribute_difference(node: onnx.NodeProto, twin: onnx.NodeProto) -> str | None:
    ours, theirs = ({attribute.name: attribute for attribute in each.attribute} for each in (node, twin))
    for name in sorted({*ours, *theirs}):
        one, other = (_attribute_key(each.get(name)) for each in (ours, theirs))
        if one != other:
            values = [
                "nothing" if each.get(name) is None else escape_name(helper.get_attribute_value(each[name]), 60)
                for each in (theirs, ours)
            ]
            return f"{escape_name(name, 40)!r} is {values[0]} instead of {values[1]}"
    return None


def _attribute_key(attribute: AttributeProto | None) -> bytes | None:
    if attribute is None:
        return None
    plain = AttributeProto()
    plain.CopyFrom(attribute)
    plain.doc_string = ""
    if plain.HasField("t"):
        value = numpy_helper.to_array(plain.t)
        return f"{value.dtype} {value.shape} ".encode() + value.tobytes()
    return bytes(plain.SerializeToString(deterministic=True))


def _are_alike(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether two nodes read the same nodes and have constants at the same inputs."""
    one, other = (["constant" if isinstance(source, _Constant) else source for source in each] for each in (ours, theirs))
    return one == other


@dataclass(frozen=True)
class _Place:
    """A constant at an input of a node: its name and its value in each member."""

    node: int
    input: int
    names: tuple[str, ...]
    values: list[NDArray[Any]]


def _iterate_places(graphs: Mapping[str, _OrderedGraph]) -> Iterator[_Place]:
    first = next(iter(graphs.values()))
    for node, sources in enumerate(first.sources):
        for position, source in enumerate(sources):
            if isinstance(source, _Constant):
                constants = [graph.sources[node][position] for graph in graphs.values()]
                names = tuple(constant.name for constant in constants)
                yield _Place(node, position, names, [constant.value for constant in constants])


def _divide_constants(
    graphs: Mapping[str, _OrderedGraph],
) -> tuple[dict[tuple[str, ...], list[_Place]], dict[tuple[int, int], NDArray[Any]]]:
    """The places of each weight, by its names in the members, and the values of all other constants by place.

    A constant that is a weight at one place is one at every place where the members share it.
    """
    first = next(iter(graphs.values()))
    groups: dict[tuple[str, ...], list[_Place]] = {}
    for place in _iterate_places(graphs):
        groups.setdefault(place.names, []).append(place)
    weights: dict[tuple[str, ...], list[_Place]] = {}
    constants: dict[tuple[int, int], NDArray[Any]] = {}
    for key, places in groups.items():
        differing = _find_differing_member(places[0].values)
        is_parameter = key[0].startswith(CONTROL_PREFIX) or any(_is_listed(first, place, PARAMETER_INPUTS) for place in places)
        if places[0].values[0].dtype == np.float32 and places[0].values[0].size and (is_parameter or differing):
            for place in places:
                _check_blendable(list(graphs), first, place, differing)
            weights[key] = places
            continue
        if differing:
            raise _constant_error(list(graphs), first, places[0], differing)
        constants |= {(place.node, place.input): place.values[0] for place in places}
    if not weights:
        raise MismatchError("The files have no weights that could be blended: no layer has constant float parameters.")
    return weights, constants


def _find_differing_member(values: Sequence[NDArray[Any]]) -> int:
    """The first member whose constant is not the first one's, bit by bit; 0 where all are the same."""
    first = values[0]
    for index, value in enumerate(values):
        if (value.dtype, value.shape) != (first.dtype, first.shape) or value.tobytes() != first.tobytes():
            return index
    return 0


def _is_listed(graph: _OrderedGraph, place: _Place, table: Mapping[str, tuple[int, ...] | None]) -> bool:
    operator = graph.nodes[place.node].op_type
    inputs = table.get(operator, ())
    return inputs is None or place.input in inputs


def _check_blendable(names: list[str], graph: _OrderedGraph, place: _Place, differing: int) -> None:
    shapes = [(value.dtype, value.shape) for value in place.values]
    is_alike = all(shape == shapes[0] for shape in shapes)
    if not is_alike or (differing and not _is_listed(graph, place, BLENDABLE_INPUTS)):
        raise _constant_error(names, graph, place, differing)


def _constant_error(names: list[str], graph: _OrderedGraph, place: _Place, differing: int) -> MismatchError:
    one, other = place.values[0], place.values[differing]
    where = f"at input {place.input} of {_describe_node(graph.nodes[place.node], place.node)}"
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        what = f"a constant {other.dtype} {other.shape} instead of {one.dtype} {one.shape}"
    else:
        index = int(np.flatnonzero(np.atleast_1d(one != other).reshape(-1))[:1].sum())
        what = f"the constant {other.flat[index]} instead of {one.flat[index]}, which is no weight"
    return MismatchError(
        f"Member {names[differing]!r} has another graph than {names[0]!r}: {where} it has {what}. {_ONE_NETWORK}"
    )


def _name_weights(graph: _OrderedGraph, weights: Mapping[tuple[str, ...], list[_Place]]) -> dict[tuple[str, ...], str]:
    """The first member's names where they say something and belong to one weight; else the place, such as Conv_3.weight."""
    uses = Counter(key[0] for key in weights)
    names: dict[tuple[str, ...], str] = {}
    taken = {INPUT_NAME, OUTPUT_NAME}
    for key, places in weights.items():
        name = key[0]
        if uses[name] > 1 or name in taken or not _is_good_name(name):
            name = _name_place(graph, places[0])
        while name in taken or (name in uses and name != key[0]):
            name += "_"
        taken.add(name)
        names[key] = name
    return names


def _is_good_name(name: str) -> bool:
    printable = 0 < len(name) <= 512 and escape_name(name, len(name)) == name
    return printable and not name.startswith("/") and "../" not in name and not _MEANINGLESS_NAME.fullmatch(name)


def _name_place(graph: _OrderedGraph, place: _Place) -> str:
    operator = graph.nodes[place.node].op_type
    nouns = INPUT_NOUNS.get(operator, ())
    noun = nouns[place.input] if place.input < len(nouns) else f"input{place.input}"
    return f"{operator}_{place.node}.{noun}"


def _build_graph(
    graph: _OrderedGraph,
    place_names: Mapping[tuple[int, int], str],
    constants: Mapping[tuple[int, int], NDArray[Any]],
    tensors: Mapping[str, NDArray[Any]],
) -> onnx.ModelProto:
    """The first member's graph with names of our own: `Conv_3`, its output `Conv_3:0`, the constant `Resize_5:input2`."""
    initializers = [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()]
    reserved = {*tensors, INPUT_NAME, OUTPUT_NAME}
    suffix = ""
    while any(f"{node.op_type}_{index}{suffix}:0" in reserved for index, node in enumerate(graph.nodes)):
        suffix += "_"
    node_names = [f"{node.op_type}_{index}{suffix}" for index, node in enumerate(graph.nodes)]

    def name_source(source: Any, place: tuple[int, int]) -> str:
        if source is None:
            return ""
        if source == INPUT_NAME:
            return INPUT_NAME
        if not isinstance(source, _Constant):
            return OUTPUT_NAME if source == graph.output else f"{node_names[source[0]]}:{source[1]}"
        if place in place_names:
            return place_names[place]
        name = f"{node_names[place[0]]}:input{place[1]}"
        initializers.append(numpy_helper.from_array(constants[place], name))
        return name

    nodes = []
    for index, original in enumerate(graph.nodes):
        node = onnx.NodeProto(op_type=original.op_type, name=node_names[index])
        node.attribute.extend(original.attribute)
        node.input.extend(name_source(source, (index, place)) for place, source in enumerate(graph.sources[index]))
        for output, name in enumerate(original.output):
            node.output.append(name_source((index, output), (index, 0)) if name else "")
        nodes.append(node)
    image, result = graph.model.graph.input, graph.model.graph.output[0]
    names = {tensor.name for tensor in graph.model.graph.initializer}
    values = [
        _rename_image(next(value for value in image if value.name not in names), INPUT_NAME, ("n", "c", "h", "w"), graph),
        _rename_image(result, OUTPUT_NAME, ("y_n", "y_c", "y_h", "y_w"), graph),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", values[:1], values[1:], initializers),
        opset_imports=[helper.make_opsetid("", graph.opset)],
    )
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    return model


def _rename_image(value: onnx.ValueInfoProto, name: str, axes: tuple[str, ...], graph: _OrderedGraph) -> onnx.ValueInfoProto:
    """The input or output under our names; an axis of a fixed size keeps it."""
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise CheckpointError(
            f"{graph.file.name} has its {'input' if name == INPUT_NAME else 'output'} as {kind}; it has to be float."
        )
    sizes: list[int | str] = list(axes)
    if tensor.HasField("shape"):
        if len(tensor.shape.dim) != len(axes):
            raise CheckpointError(
                f"{graph.file.name} has an image of {len(tensor.shape.dim)} axes; it has to have 4, (N, C, H, W)."
            )
        sizes = [dim.dim_value if dim.dim_value > 0 else axis for dim, axis in zip(tensor.shape.dim, axes, strict=True)]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)

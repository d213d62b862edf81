"""The pass that makes activations and weights float16, in a strongly typed graph with a float32 input and a float32 output.

A pass of our own, and not onnxruntime.transformers.float16: that one wants the weights' data, puts a Cast before a weight that
is read in both precisions (which makes the convolution's kernel a computed one), silently clamps constants that do not fit
(an epsilon of 1e-8 becomes 6e-8), and rounds the arithmetic on shapes that leads to a Resize's scales.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper

from engines.lowering.recipes import Recipes

log = logging.getLogger(__name__)

ONNX_FLOAT, ONNX_FLOAT16 = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
MAX_FLOAT16, MIN_NORMAL_FLOAT16 = 65504.0, 2.0**-14

FLOAT32_OPERATORS = frozenset((
    # Sums over a whole frame: a float16 has 11 bits, so that beyond 2048 equal terms nothing is added any more, and squares
    # overflow from 256. Statistics of this kind scale every pixel, so their error is not averaged out.
    "InstanceNormalization", "GroupNormalization", "LayerNormalization", "MeanVarianceNormalization", "LpNormalization",
    "BatchNormalization", "GlobalAveragePool", "GlobalLpPool", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2",
    "ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "CumSum", "Einsum",
    # Functions that leave the range of a float16 within it (a variance of 1e-6, before its root), or whose argument has to be exact:
    # a pixel's place in a grid.
    "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Softmax", "LogSoftmax", "GridSample", "AffineGrid",
))  # fmt: skip
"""Operators that stay float32, with a Cast of the activations before and behind them and float32 weights of their own."""


def to_float16(graph: onnx.ModelProto, recipes: Recipes) -> tuple[onnx.ModelProto, Recipes]:
    """Makes a float16 version of a lowered graph.

    A value that depends on the frame becomes float16, unless its operator is one of FLOAT32_OPERATORS, has no float16 form in
    the graph's opset, or reads a constant that float16 cannot hold. What does not depend on the frame (arithmetic on shapes,
    and on weights before they are used) stays float32. Resize's scales are float32 by the standard. A weight that is read in
    both types exists twice.

    Args:
        graph: The lowered graph, its weights without data; it is not changed.
        recipes: How its weights are made; not changed.

    Returns:
        The float16 graph, and the recipes of its weights.
    """
    model, converted = _Conversion(graph, recipes).run()
    log.debug(
        "pass float16: %d to %d nodes, %d to %d weights",
        len(graph.graph.node),
        len(model.graph.node),
        len(recipes.linear),
        len(converted.linear),
    )
    return model, converted


class _Conversion:
    """One conversion. Values keep their names; a version of another type is called "name@float16" or "name@float32"."""

    def __init__(self, graph: onnx.ModelProto, recipes: Recipes) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(graph)
        self.linear, self.folds = recipes.linear, recipes.folds
        inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
        self.element_types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
            if value.type.HasField("tensor_type")
        }
        self.element_types |= {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
        self.initializers = {tensor.name: tensor for tensor in graph.graph.initializer}
        self.opsets = {entry.domain: entry.version for entry in graph.opset_import}
        self.outputs = {value.name for value in graph.graph.output}
        self.input_dependent_values = {value.name for value in graph.graph.input}
        # (name before, type) -> name now; what a node gives is entered when the node is converted, the rest when it is read.
        self.versions: dict[tuple[str, int], str] = {
            (name, ONNX_FLOAT): name for name in self.input_dependent_values if self.element_types.get(name) == ONNX_FLOAT
        }
        # An initializer's name before -> its names now, each with its type.
        self.initializer_versions: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self.used_names = set(self.element_types) | {name for node in graph.graph.node for name in (node.name, *node.output)}
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> tuple[onnx.ModelProto, Recipes]:
        graph = self.model.graph
        for node in list(graph.node):
            self._convert_node(node)
        for name in sorted(self.outputs):
            if self.element_types.get(name) == ONNX_FLOAT:
                self._get_version(name, ONNX_FLOAT)
        used = {name for node in self.nodes for name in node.input} | self.outputs
        initializers = []
        linear = {}
        for tensor in self.initializers.values():
            if tensor.data_type != ONNX_FLOAT and tensor.name in used:
                initializers.append(tensor)
            for name, kind in self.initializer_versions[tensor.name]:
                initializers.append(self._make_initializer(name, kind, tensor))
                if tensor.name in self.linear:
                    linear[name] = self.linear[tensor.name]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(initializers)
        return self.model, Recipes(linear, list(self.folds))

    def _convert_node(self, node: onnx.NodeProto) -> None:
        depends_on_input = bool(self.input_dependent_values.intersection(node.input))
        if depends_on_input and node.op_type not in ("Shape", "Size"):
            self.input_dependent_values.update(node.output)
        schema = _find_schema(node, self.opsets)
        parameters = (
            self._find_float16_parameters(node, schema) if depends_on_input and schema is not None else frozenset[str]()
        )
        for position, name in enumerate(node.input):
            if self.element_types.get(name) == ONNX_FLOAT:
                is_float16 = schema is not None and _get_formal_parameter(schema.inputs, position).type_str in parameters
                node.input[position] = self._get_version(name, ONNX_FLOAT16 if is_float16 else ONNX_FLOAT)
        self.nodes.append(node)
        for position, name in enumerate(node.output):
            if self.element_types.get(name) != ONNX_FLOAT:
                continue
            is_float16 = schema is not None and _get_formal_parameter(schema.outputs, position).type_str in parameters
            if is_float16 and name in self.outputs:  # the graph's own output stays float32 and keeps its name
                node.output[position] = self._make_unique_name(f"{name}@float16")
            self.versions[name, ONNX_FLOAT16 if is_float16 else ONNX_FLOAT] = node.output[position]

    def _find_float16_parameters(self, node: onnx.NodeProto, schema: defs.OpSchema) -> frozenset[str]:
        """Finds the node's type parameters that become float16, such as {"T"}; none where it stays float32."""
        if node.op_type in FLOAT32_OPERATORS or any(
            name and name not in self.element_types for name in (*node.input, *node.output)
        ):
            return frozenset()
        types = {
            _get_formal_parameter(schema.inputs, position).type_str
            for position, name in enumerate(node.input)
            if name in self.input_dependent_values and self.element_types[name] == ONNX_FLOAT
        }
        allowed = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
        if not all("tensor(float16)" in allowed.get(kind, ()) for kind in types):
            return frozenset()
        for position, name in enumerate(node.input):
            constant = self.initializers.get(name)
            if constant is None or name in self.linear or constant.data_type != ONNX_FLOAT:
                continue
            if _get_formal_parameter(schema.inputs, position).type_str in types and not _fits_float16(
                numpy_helper.to_array(constant)
            ):
                return frozenset()
        return frozenset(types)

    def _get_version(self, name: str, kind: int) -> str:
        """Returns the value's name in this type: as it is, a weight or constant of that type, or one Cast for all readers."""
        version = self.versions.get((name, kind))
        if version is not None:
            return version
        other = self.versions.get((name, ONNX_FLOAT if kind == ONNX_FLOAT16 else ONNX_FLOAT16))
        suffix = "float16" if kind == ONNX_FLOAT16 else "float32"
        if name in self.initializers:
            version = name if other is None else self._make_unique_name(f"{name}@{suffix}")
            self.initializer_versions[name].append((version, kind))
        else:
            assert other is not None  # nodes are in topological order
            version = name if kind == ONNX_FLOAT and name in self.outputs else self._make_unique_name(f"{name}@{suffix}")
            self.nodes.append(
                helper.make_node("Cast", [other], [version], name=self._make_unique_name(f"Cast to {version}"), to=kind)
            )
        self.versions[name, kind] = version
        return version

    def _make_initializer(self, name: str, kind: int, tensor: TensorProto) -> TensorProto:
        if tensor.name in self.linear:
            return TensorProto(name=name, dims=tensor.dims, data_type=kind)
        value: NDArray[np.generic] = numpy_helper.to_array(tensor)
        return numpy_helper.from_array(value.astype(np.float16) if kind == ONNX_FLOAT16 else value, name)

    def _make_unique_name(self, name: str) -> str:
        while name in self.used_names:
            name += "'"
        self.used_names.add(name)
        return name


def _find_schema(node: onnx.NodeProto, opsets: dict[str, int]) -> defs.OpSchema | None:
    """Returns None for an operator that ONNX does not know; it stays float32."""
    try:
        return defs.get_schema(node.op_type, opsets[node.domain], node.domain)
    except (defs.SchemaError, KeyError):
        return None


def _get_formal_parameter(formals: Sequence[defs.OpSchema.FormalParameter], position: int) -> defs.OpSchema.FormalParameter:
    """Returns the parameter at a position; the last one may be variadic and stand for all that follow."""
    return formals[min(position, len(formals) - 1)]


def _fits_float16(value: NDArray[np.generic]) -> bool:
    """Tells whether float16 holds each number to its usual 11 bits: none overflows, none but 0 is below its normal range."""
    magnitude = np.abs(value)
    return bool(np.all((magnitude <= MAX_FLOAT16) & ((magnitude == 0) | (magnitude >= MIN_NORMAL_FLOAT16))))

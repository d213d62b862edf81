"""Statistics: mean and variance of what each BatchNorm of a network sees on given inputs, each layer behind recalibrated ones.

The graph's BatchNormalizations are rewritten so that they normalise by the batch's own statistics and give them as outputs: what
PyTorch's `update_bn` does with momentum None. Layer by layer in inference mode would be the same for one batch, and one run for
every layer instead of one for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from dni_deploy.errors import EngineError, escape_name
from engines.lowering.weights_as_inputs import weights_as_inputs
from engines.onnxruntime_cpu import runtime


class BatchNormLayer(NamedTuple):
    """A BatchNorm: the tensors of its running mean and variance, and what is added to the variance."""

    mean: str
    variance: str
    epsilon: float


BatchNormEstimate = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Mean and variance, float64 (C,) each, by the name of the running mean."""


def get_runtime_version() -> str:
    """Of ONNX Runtime."""
    return str(ort.__version__)


class BatchNormEstimator:
    """One session for a bundle's graph, whose weights are fed anew for every estimate. Any thread, one at a time."""

    def __init__(self, graph: onnx.ModelProto, weights: tuple[str, ...], threads: int = 0) -> None:
        """graph: the bundle's, not changed. Raises EngineError where it cannot be run so."""
        model, self._outputs = _add_statistics_outputs(graph, set(weights))
        self.layers = tuple(dict.fromkeys(layer for layer, _, _ in self._outputs))
        used = {name for node in model.graph.node for name in node.input}
        self._names = [name for name in weights if name in used]
        unused = set(weights) - used
        kept = [tensor for tensor in model.graph.initializer if tensor.name not in unused]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        self._input: str = model.graph.input[0].name
        self._session = runtime.open_cpu_session(weights_as_inputs(model, self._names), threads, stop_spinning=True)

    def estimate(self, weights: Mapping[str, NDArray[Any]], batches: Iterable[NDArray[np.float32]]) -> BatchNormEstimate:
        """The mean over the batches of each one's mean and (unbiased) variance; batches float32 (B, C, H, W), of one size.

        A layer that the network runs through several times gets the mean over those. Raises EngineError.
        """
        feed = {name: np.ascontiguousarray(weights[name], np.float32) for name in self._names}
        wanted = [output for _, mean, variance in self._outputs for output in (mean, variance)]
        sums: dict[str, list[Any]] = {layer.mean: [0.0, 0.0, 0] for layer in self.layers}
        for x in batches:
            try:
                found = iter(self._session.run([*wanted, *(f"{name}@count" for name in wanted[::2])], {self._input: x, **feed}))
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise EngineError(
                    f"ONNX Runtime could not run an input of shape {x.shape}: {runtime.summarize_error(error)}"
                ) from error
            pairs = [(next(found), next(found)) for _ in self._outputs]
            for (layer, _, _), (mean, variance), count in zip(self._outputs, pairs, found, strict=True):
                number = int(np.prod(count)) // mean.size
                total = sums[layer.mean]
                total[0] = total[0] + mean.reshape(-1).astype(np.float64)
                total[1] = total[1] + variance.reshape(-1).astype(np.float64) * (number / max(number - 1, 1))
                total[2] += 1
        bad = [
            name for name, (mean, variance, _) in sums.items() if not np.isfinite(mean).all() or not np.isfinite(variance).all()
        ]
        if bad:
            raise EngineError(f"On these inputs the activations before {escape_name(bad[0])!r} are not finite.")
        return {name: (mean / count, variance / count) for name, (mean, variance, count) in sums.items()}


def _add_statistics_outputs(
    graph: onnx.ModelProto, weights: set[str]
) -> tuple[onnx.ModelProto, list[tuple[BatchNormLayer, str, str]]]:
    """The rewritten graph, and for each BatchNormalization of the family its layer and the outputs of mean and variance."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input)
        if value.type.tensor_type.HasField("shape")
    }
    opset = max((entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")), default=17)
    nodes: list[onnx.NodeProto] = []
    found: list[tuple[BatchNormLayer, str, str]] = []
    constants: dict[str, NDArray[Any]] = {}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or not {node.input[3], node.input[4]} <= weights:
            nodes.append(node)
            continue
        rank = ranks.get(node.input[0], 0)
        if rank < 2:
            raise EngineError(f"The graph's BatchNormalization {escape_name(node.output[0])!r} has an input of unknown rank.")
        epsilon = float(next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5))
        mean, variance = f"{node.output[0]}@mean", f"{node.output[0]}@variance"
        nodes += _batch_normalize_nodes(node, rank, epsilon, opset, constants)
        found.append((BatchNormLayer(node.input[3], node.input[4], epsilon), mean, variance))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for _, mean, variance in found:
        for name, kind in ((mean, TensorProto.FLOAT), (variance, TensorProto.FLOAT), (f"{mean}@count", TensorProto.INT64)):
            model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return model, found


def _batch_normalize_nodes(
    node: onnx.NodeProto, rank: int, epsilon: float, opset: int, constants: dict[str, NDArray[Any]]
) -> list[onnx.NodeProto]:
    """y = (x - mean) / sqrt(variance + eps) * gamma + beta by the batch's mean and variance, which are named `y@mean`, `y@variance`."""
    x, gamma, beta = node.input[:3]
    y = node.output[0]
    nodes: list[onnx.NodeProto] = []

    def add_node(operator: str, inputs: list[str], to: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [to], name=to, **attributes))
        return to

    def add_constant(name: str, value: NDArray[Any]) -> str:
        constants[name] = value
        return name

    def add_mean(value: str, to: str) -> str:
        # Picture by picture first: those numbers lie side by side. Pictures of one size, so the mean of means is the mean.
        for axes, name in ((list(range(2, rank)), f"{to}@each"), ([0], to)):
            if not axes:
                continue
            if opset < 18:
                add_node("ReduceMean", [value], name, axes=axes, keepdims=1)
            else:
                add_node("ReduceMean", [value, add_constant(f"axes {axes}", np.array(axes, np.int64))], name, keepdims=1)
            value = name
        return to

    mean = add_mean(x, f"{y}@mean")
    centred = add_node("Sub", [x, mean], f"{y}@centred")
    variance = add_mean(add_node("Mul", [centred, centred], f"{y}@squared"), f"{y}@variance")
    add_node("Shape", [x], f"{mean}@count")
    raised = add_node("Add", [variance, add_constant(f"epsilon {epsilon!r}", np.array(epsilon, np.float32))], f"{y}@raised")
    scaled = add_node("Div", [centred, add_node("Sqrt", [raised], f"{y}@deviation")], f"{y}@normal")
    shape = add_constant(f"along {rank}", np.array([1, -1, *[1] * (rank - 2)], np.int64))
    scaled = add_node("Mul", [scaled, add_node("Reshape", [gamma, shape], f"{y}@gamma")], f"{y}@scaled")
    add_node("Add", [scaled, add_node("Reshape", [beta, shape], f"{y}@beta")], y)
    return nodes


def measure_batchnorm_inputs(
    graph: ModelProto, weights: Mapping[str, NDArray[Any]], inputs: Sequence[NDArray[np.float32]]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Mean and variance, float64 (C,) each, over all inputs alike and all places, by the layer's name (its running_mean's prefix).

    graph  a bundle's, unlowered; it is not changed. Empty where it has no BatchNormalization with named statistics.
    Raises EngineError where ONNX Runtime fails.
    """
    model = runtime.bind_initializers(graph, weights)
    taps = {}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and node.input[3].rpartition(".")[2] == "running_mean":
            taps[node.input[3].rpartition(".")[0]] = node.input[0]
    if not taps:
        return {}
    there = {value.name for value in (*model.graph.output, *model.graph.input)}
    wanted = dict.fromkeys(taps.values())
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted if name not in there
    )
    session = runtime.open_cpu_session(model)
    sums: dict[str, list[NDArray[np.float64]]] = {name: [] for name in wanted}
    for x in inputs:
        for name, value in zip(wanted, runtime.run_outputs(session, x, list(wanted)), strict=True):
            rows = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1).astype(np.float64)
            sums[name].append(np.stack([rows.mean(axis=1), np.square(rows).mean(axis=1)]))
    found = {}
    for layer, name in taps.items():
        mean, square = np.mean(sums[name], axis=0)
        found[layer] = (mean, np.maximum(square - mean**2, 0))
    return found

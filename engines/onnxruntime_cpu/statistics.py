"""Mean and variance of what enters each BatchNorm of a graph, measured on given inputs.

Two ways to normalize what the layers behind a BatchNorm see. With "running" statistics each BatchNorm computes with its running
mean and variance, as PyTorch does in eval mode: what the network sees when it is used. With "batch" statistics each normalizes
by the batch's own, as PyTorch does in train mode and `update_bn` with momentum None: what its statistics would have to be.
Layer by layer in eval mode would be the same for one batch, and one run for every layer instead of one for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.errors import EngineError, escape_name
from engines import ort_session
from engines.lowering.graph_rewriter import read_attributes
from engines.lowering.weights_as_inputs import weights_as_inputs


class BatchNormLayer(NamedTuple):
    """A BatchNorm of the network.

    Attributes:
        mean: Name of the tensor of its running mean.
        variance: Name of the tensor of its running variance.
        epsilon: What is added to the variance.
    """

    mean: str
    variance: str
    epsilon: float


BatchNormEstimate = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Mean and variance, float64 (C,) each, by the name of the running mean."""


class BatchNormEstimator:
    """One session for a bundle's graph, whose weights are fed anew for every estimate.

    Attributes:
        layers: The BatchNorms whose statistics are weights of the family, in graph order, each once.

    Thread safety: from any thread, one call at a time.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        weight_names: tuple[str, ...],
        threads: int = 0,
        *,
        statistics: Literal["batch", "running"] = "batch",
    ) -> None:
        """Rewrites the graph and opens the session.

        Args:
            graph: The bundle's graph, not lowered; it is not changed, and its weights need no data.
            weight_names: Names of the initializers that are fed.
            threads: Number of intra-op threads; 0 for one per physical core.
            statistics: What each BatchNorm normalizes by.

        Raises:
            EngineError: ONNX Runtime cannot open the graph.
        """
        self._pools_variance = statistics == "running"
        model, self._uses = _add_moment_outputs(graph, set(weight_names), keep_batch_norms=self._pools_variance)
        self.layers = tuple(dict.fromkeys(layer for layer, _ in self._uses))
        if not self.layers:
            return
        read = {name for node in model.graph.node for name in node.input}
        self._names = [name for name in weight_names if name in read]
        unread = set(weight_names) - read
        kept = [tensor for tensor in model.graph.initializer if tensor.name not in unread]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        self._input: str = model.graph.input[0].name
        self._session = ort_session.open_cpu_session(weights_as_inputs(model, self._names), threads, stop_spinning=True)

    def estimate(self, weights: Mapping[str, NDArray[Any]], batches: Iterable[NDArray[np.float32]]) -> BatchNormEstimate:
        """Measures the statistics of one set of weights.

        Args:
            weights: The network's weights by name, its running statistics among them.
            batches: Inputs, float32 (B, C, H, W); each counts alike. With "batch" statistics they should be of one size.

        Returns:
            Each layer's mean over the batches, and its variance: with "running" statistics that of all batches together, with
            "batch" statistics the mean over the batches of each one's unbiased variance. A layer that the network runs through
            several times counts each time. Empty where there are no layers.

        Raises:
            EngineError: ONNX Runtime cannot run an input, or, with "batch" statistics, activations are not finite.
        """
        if not self.layers:
            return {}
        feed = {name: np.ascontiguousarray(weights[name], np.float32) for name in self._names}
        outputs = [f"{output}{suffix}" for _, output in self._uses for suffix in (MEAN_SUFFIX, VARIANCE_SUFFIX, SHAPE_SUFFIX)]
        means: dict[str, list[NDArray[np.float64]]] = {layer.mean: [] for layer in self.layers}
        variances: dict[str, list[NDArray[np.float64]]] = {layer.mean: [] for layer in self.layers}
        for x in batches:
            values = iter(ort_session.run_outputs(self._session, outputs, x, self._input, feed))
            for (layer, _), mean, variance, shape in zip(self._uses, values, values, values, strict=True):
                count = int(np.prod(shape)) // mean.size
                correction = 1.0 if self._pools_variance else count / max(count - 1, 1)
                means[layer.mean].append(mean.reshape(-1).astype(np.float64))
                variances[layer.mean].append(variance.reshape(-1).astype(np.float64) * correction)
        estimate = {}
        for name in means:
            mean, variance = np.mean(means[name], axis=0), np.mean(variances[name], axis=0)
            if self._pools_variance:
                variance += np.var(means[name], axis=0)
            elif not np.isfinite(mean).all() or not np.isfinite(variance).all():
                raise EngineError(f"On these inputs the activations before {escape_name(name)!r} are not finite.")
            estimate[name] = (mean, variance)
        return estimate


MEAN_SUFFIX, VARIANCE_SUFFIX, SHAPE_SUFFIX = "@mean", "@variance", "@shape"
"""Of the outputs that are added for a BatchNormalization, behind the name of its own output."""


def _add_moment_outputs(
    graph: onnx.ModelProto, weights: set[str], *, keep_batch_norms: bool
) -> tuple[onnx.ModelProto, list[tuple[BatchNormLayer, str]]]:
    """Returns the rewritten graph, and for each BatchNormalization of the family its layer and the name of its output."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    opset = max((entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")), default=17)
    nodes: list[onnx.NodeProto] = []
    uses: list[tuple[BatchNormLayer, str]] = []
    constants: dict[str, NDArray[Any]] = {}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or not {node.input[3], node.input[4]} <= weights:
            nodes.append(node)
            continue
        epsilon = float(read_attributes(node).get("epsilon", 1e-5))
        uses.append((BatchNormLayer(node.input[3], node.input[4], epsilon), node.output[0]))
        nodes += _make_moment_nodes(node, opset, constants)
        nodes += [node] if keep_batch_norms else _make_normalization_nodes(node, epsilon, constants)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for _, output in uses:
        for suffix, kind in (
            (MEAN_SUFFIX, TensorProto.FLOAT),
            (VARIANCE_SUFFIX, TensorProto.FLOAT),
            (SHAPE_SUFFIX, TensorProto.INT64),
        ):
            model.graph.output.append(helper.make_tensor_value_info(f"{output}{suffix}", kind, None))
    return model, uses


def _make_moment_nodes(node: onnx.NodeProto, opset: int, constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    """Makes mean and variance (1, C, 1) of a node's input of any rank, which is reshaped to (N, C, places)."""
    x, y = node.input[0], node.output[0]
    constants["@places"] = np.array([0, 0, -1], np.int64)  # in a Reshape, 0 keeps that dimension; -1 is what remains

    def make_mean_nodes(value: str, mean: str) -> list[onnx.NodeProto]:
        # Frame by frame first: those numbers lie side by side. The frames have one size, so the mean of means is the mean.
        steps = ((2, value, f"{mean}@each"), (0, f"{mean}@each", mean))
        if opset < 18:
            return [
                helper.make_node("ReduceMean", [source], [to], name=to, axes=[axis], keepdims=1) for axis, source, to in steps
            ]
        constants.update({f"@axis {axis}": np.array([axis], np.int64) for axis, _, _ in steps})
        return [
            helper.make_node("ReduceMean", [source, f"@axis {axis}"], [to], name=to, keepdims=1) for axis, source, to in steps
        ]

    return [
        helper.make_node("Shape", [x], [f"{y}{SHAPE_SUFFIX}"], name=f"{y}{SHAPE_SUFFIX}"),
        helper.make_node("Reshape", [x, "@places"], [f"{y}@flat"], name=f"{y}@flat"),
        *make_mean_nodes(f"{y}@flat", f"{y}{MEAN_SUFFIX}"),
        helper.make_node("Sub", [f"{y}@flat", f"{y}{MEAN_SUFFIX}"], [f"{y}@centered"], name=f"{y}@centered"),
        helper.make_node("Mul", [f"{y}@centered", f"{y}@centered"], [f"{y}@squared"], name=f"{y}@squared"),
        *make_mean_nodes(f"{y}@squared", f"{y}{VARIANCE_SUFFIX}"),
    ]


def _make_normalization_nodes(node: onnx.NodeProto, epsilon: float, constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    """Makes y = (x - mean) / sqrt(variance + eps) * gamma + beta from what `_make_moment_nodes` computes."""
    gamma, beta = node.input[1:3]
    y = node.output[0]
    constants[f"@epsilon {epsilon!r}"] = np.array(epsilon, np.float32)
    constants["@channels"] = np.array([1, -1, 1], np.int64)
    steps = [
        ("Add", [f"{y}{VARIANCE_SUFFIX}", f"@epsilon {epsilon!r}"], f"{y}@sum"), ("Sqrt", [f"{y}@sum"], f"{y}@deviation"),
        ("Div", [f"{y}@centered", f"{y}@deviation"], f"{y}@normal"), ("Reshape", [gamma, "@channels"], f"{y}@gamma"),
        ("Mul", [f"{y}@normal", f"{y}@gamma"], f"{y}@scaled"), ("Reshape", [beta, "@channels"], f"{y}@beta"),
        ("Add", [f"{y}@scaled", f"{y}@beta"], f"{y}@shifted"), ("Reshape", [f"{y}@shifted", f"{y}{SHAPE_SUFFIX}"], y),
    ]  # fmt: skip
    return [helper.make_node(operator, inputs, [output], name=output) for operator, inputs, output in steps]

"""Norm inputs: what goes into each BatchNormalization of a bundle's graph, measured by ONNX Runtime at any weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from engines.onnxruntime_cpu import runtime


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

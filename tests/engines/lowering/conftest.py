"""What the tests of the lowering share: the comparison of a lowered graph with the one it was made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from engines import ort_session
from engines.lowering.gpu import LoweredGraph, lower_for_gpu
from tests.engines.conftest import Case

TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}
"""Of the output's range. float32: a fold rounds each activation once more (6e-8); measured 1e-7 to 2e-6. float16: the goal that
a user is promised; each activation is rounded by 2.4e-4 of itself, which averages out over the layers."""


@pytest.fixture(params=["fp32", "fp16"])
def precision(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def distance(got: NDArray[np.float32], expected: NDArray[Any]) -> float:
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.ptp(expected))


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def check(case: Case, precision: str) -> LoweredGraph:
    lowered = lower_for_gpu(case.graph, case.weights, precision)
    blended = blend_float64(case.members, np.array([0.5, 0.2, 0.3]))
    before = ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, blended), 1)
    after = ort_session.open_cpu_session(lowered.bind_weights(lowered.recipes.compute_values(blended)), 1)
    for x in case.inputs():
        assert distance(ort_session.run_session(after, x), ort_session.run_session(before, x)) <= TOLERANCE[precision]
    return lowered

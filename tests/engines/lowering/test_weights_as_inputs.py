"""A graph with its weights as inputs computes the blend that is fed to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import EngineError
from engines import ort_session
from engines.lowering.gpu import lower_for_gpu
from engines.lowering.weights_as_inputs import weights_as_inputs
from tests.engines.conftest import Case
from tests.support.handmade_graphs import HAND

TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}
"""Of the output's range; see test_gpu_lowering.py."""
NAMES = ("compact", "dncnn_bn", "transformer_net", "cyclegan_bn", "dcgan", "linear_bn", "bn_first", "bn_without_affine")
SHARES = ([0.5, 0.2, 0.3], [0.0, 0.0, 1.0], [0.35, 0.65])


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, pico_case: Callable[[str], Case]) -> Case:
    return HAND[request.param]() if request.param in HAND else pico_case(request.param)


def opened(model: onnx.ModelProto) -> ort.InferenceSession:
    onnx.checker.check_model(model, full_check=True)
    return ort_session.open_cpu_session(model, 1)


def expected(case: Case, shares: list[float], x: NDArray[np.float32]) -> NDArray[np.float32]:
    blended = blend_float64(case.members[: len(shares)], np.array(shares))
    return ort_session.run_session(ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, blended), 1), x)


def check(case: Case, got: NDArray[np.float32], shares: list[float], x: NDArray[np.float32], precision: str) -> None:
    wanted = expected(case, shares, x)
    assert got.dtype == np.float32
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= TOLERANCE[precision] * np.ptp(wanted)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_weights_as_inputs(case: Case, precision: str) -> None:
    lowered = lower_for_gpu(case.graph, case.weights, precision)
    names = [weight.name for weight in lowered.weights]
    before = lowered.digest()
    model = weights_as_inputs(lowered.graph, names)
    assert lowered.digest() == before
    assert [value.name for value in model.graph.input] == [case.graph.graph.input[0].name, *names]
    assert not set(names) & {tensor.name for tensor in model.graph.initializer}
    for weight, value in zip(lowered.weights, model.graph.input[1:], strict=True):
        assert helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) == weight.dtype
        assert tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) == weight.shape
    session = opened(model)
    for shares in SHARES:
        values = lowered.recipes.compute_values(blend_float64(case.members[: len(shares)], np.array(shares)))
        feed = {weight.name: values[weight.name].astype(weight.dtype) for weight in lowered.weights}
        for x in case.inputs():
            check(case, ort_session.run_session(session, x, model.graph.input[0].name, feed), shares, x, precision)


def test_what_is_no_initializer_is_named() -> None:
    case = HAND["conv_bn"]()
    with pytest.raises(EngineError, match="no initializer 'nobody'"):
        weights_as_inputs(case.graph, [*case.weights, "nobody"])

"""A graph with alpha as an input computes the blend by itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from dni_deploy.errors import EngineError
from dni_deploy.latency.baselines.alpha_input import ALPHA_INPUT_NAME, alpha_as_input
from engines import ort_session
from engines.lowering.gpu import lower_for_gpu
from tests.engines.conftest import Case, pico_case  # noqa: F401
from tests.engines.lowering.test_weights_as_inputs import NAMES, SHARES, check, opened
from tests.support.handmade_graphs import HAND, Hand


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, pico_case: Callable[[str], Case]) -> Case:  # noqa: F811
    return HAND[request.param]() if request.param in HAND else pico_case(request.param)


def feed_alpha(coefficients: list[float]) -> dict[str, NDArray[np.float32]]:
    return {ALPHA_INPUT_NAME: np.array([coefficients], np.float32)}


@pytest.mark.parametrize("precision", ["bundle", "fp32", "fp16"])
def test_alpha_is_an_input_of_the_graph(case: Case, precision: str) -> None:
    """The graph is the bundle's, or a lowered one that keeps BatchNorm's raw statistics to be blended."""
    if precision == "bundle":
        graph, names, members = case.graph, list(case.weights), case.members
        precision = "fp32"
    else:
        lowered = lower_for_gpu(case.graph, case.weights, precision, fold=False)
        assert not lowered.recipes.folds
        graph, names = lowered.graph, [weight.name for weight in lowered.weights]
        members = [lowered.recipes.compute_values(tensors) for tensors in case.members]
    for count in (2, 3):
        model = alpha_as_input(graph, names, members[:count])
        assert [value.name for value in model.graph.input] == [case.graph.graph.input[0].name, ALPHA_INPUT_NAME]
        session = opened(model)
        for coefficients in SHARES:
            if len(coefficients) == count:
                for x in case.inputs():
                    actual = ort_session.run_session(session, x, model.graph.input[0].name, feed_alpha(coefficients))
                    check(case, actual, coefficients, x, precision)


def test_float16_weights_are_blended_in_float32() -> None:
    """Coefficients rounded to float16 for all weights would be off by 5e-4 each."""
    case = HAND["conv_bn"]()
    lowered = lower_for_gpu(case.graph, case.weights, "fp16", fold=False)
    names = [weight.name for weight in lowered.weights]
    model = alpha_as_input(lowered.graph, names, [lowered.recipes.compute_values(tensors) for tensors in case.members])
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {types[f"{name}@members"] for name in names} == {TensorProto.FLOAT}
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def test_a_scalar_weight_is_blended() -> None:
    hand = Hand()
    case = hand.case(hand.node("Mul", ["x", hand.weight("gain", (), 0.5, 1.5)]))
    session = opened(alpha_as_input(case.graph, case.weights, case.members))
    x = case.inputs()[0]
    check(case, ort_session.run_session(session, x, "x", feed_alpha([0.5, 0.2, 0.3])), [0.5, 0.2, 0.3], x, "fp32")


def test_a_graph_with_an_input_named_alpha_is_refused() -> None:
    hand = Hand()
    case = hand.case(hand.node("Mul", ["x", hand.weight(ALPHA_INPUT_NAME, (1,), 0.5, 1.5)]))
    with pytest.raises(EngineError, match="already has a value named 'alpha'"):
        alpha_as_input(case.graph, case.weights, case.members)

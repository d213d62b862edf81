"""Sessions of ONNX Runtime: its errors become one sentence, and weights are put into copies of a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dni_deploy.errors import EngineError
from engines import ort_session
from tests.engines.conftest import Case
from tests.support.handmade_graphs import HAND


@pytest.fixture
def case() -> Case:
    return HAND["conv_bn"]()


def test_values_are_put_into_a_copy(case: Case) -> None:
    before = case.graph.SerializeToString(deterministic=True)
    values = {"conv0.weight": case.members[1]["conv0.weight"].astype(np.float64), "of another network": np.zeros(3)}
    bound = ort_session.bind_initializers(case.graph, values)
    assert case.graph.SerializeToString(deterministic=True) == before
    [tensor] = [tensor for tensor in bound.graph.initializer if tensor.name == "conv0.weight"]
    assert tensor.data_type == onnx.TensorProto.FLOAT
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), case.members[1]["conv0.weight"])


def test_a_blended_session_computes_the_members_at_the_ends(case: Case) -> None:
    x = case.inputs()[0]
    for index, row in enumerate(np.eye(3)):
        alone = ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, case.members[index]), 1)
        blended = ort_session.open_blended_session(case.graph, case.members, row, threads=1)
        np.testing.assert_array_equal(ort_session.run_session(blended, x), ort_session.run_session(alone, x))


def test_outputs_are_returned_by_name(case: Case) -> None:
    session = ort_session.open_blended_session(case.graph, case.members, np.eye(3)[0], threads=1)
    name = session.get_outputs()[0].name
    [output] = ort_session.run_outputs(session, [name], case.inputs()[0])
    np.testing.assert_array_equal(output, ort_session.run_session(session, case.inputs()[0]))


def test_an_input_that_does_not_fit_and_a_broken_graph_are_one_sentence_each(case: Case) -> None:
    session = ort_session.open_blended_session(case.graph, case.members, np.eye(3)[0], threads=1)
    with pytest.raises(EngineError, match=r"^ONNX Runtime could not run an input of shape \(1, 7, 8, 8\): [^\n]+$"):
        ort_session.run_session(session, np.zeros((1, 7, 8, 8), np.float32))
    case.graph.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match=r"^ONNX Runtime [0-9.]+ could not open the network: [^\n]+$"):
        ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, case.members[0]))


@pytest.mark.parametrize(
    ("text", "summary"), [("[ONNXRuntimeError] : 2 : INVALID : bad\nmore", "bad"), ("", "ValueError"), ("x" * 300, "x" * 200)]
)
def test_a_librarys_message_is_cut_to_its_first_line(text: str, summary: str) -> None:
    assert ort_session.summarize_error(ValueError(text)) == summary

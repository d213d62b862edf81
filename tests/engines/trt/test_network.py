"""What TensorRT reads of a bundle: the lowered graph with the first member's numbers, and what may be asked back at a refit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.trt.network import Network
from tests.engines.conftest import write
from tests.engines.trt.conftest import bn, picture, truth


def network(bundle: Bundle, precision: str = "fp32") -> Network:
    return Network.from_lowered(bundle, Network.lower(bundle, precision))


def test_the_model_computes_the_first_member(bundle: Bundle) -> None:
    model = network(bundle).build_model()
    onnx.checker.check_model(model, full_check=True)
    output = ort_session.run_session(ort_session.open_cpu_session(model, 1), picture())
    # The fold of the BatchNorm is rounded to float32 once more.
    assert relative_error(output, truth(bundle, [1, 0, 0], picture())) <= 1e-5


def test_the_identity_graph_holds_no_numbers_of_a_member(bundle: Bundle) -> None:
    """A refit plan serves every family on the graph."""
    lowered = Network.lower(bundle, "fp32")
    before = lowered.digest()
    network(bundle).build_model()
    assert lowered.digest() == before
    names = {weight.name for weight in lowered.weights}
    weights = [tensor for tensor in Network.make_graph(lowered, 3).graph.initializer if tensor.name in names]
    assert len(weights) == len(names)
    assert not any(tensor.raw_data or tensor.float_data for tensor in weights)


def test_constants_are_all_that_the_graph_holds_besides_the_weights(bundle: Bundle) -> None:
    made = network(bundle)
    graph = made.build_model().graph
    nodes = [node for node in graph.node if node.op_type == "Constant"]
    constants = made.collect_constants()
    assert set(constants) == {tensor.name for tensor in graph.initializer} - set(made.weight_names) | {
        node.output[0] for node in nodes
    }
    for tensor in graph.initializer:
        if tensor.name in constants:
            assert np.array_equal(constants[tensor.name], numpy_helper.to_array(tensor))


@pytest.mark.parametrize(("precision", "dtypes"), [("fp32", {"float32"}), ("fp16", {"float16"})])
def test_weights_are_listed_with_dtype_and_count(precision: str, dtypes: set[str], bundle: Bundle) -> None:
    made = network(bundle, precision)
    assert [name for name, _, _ in made.weight_specs] == list(made.weight_names)
    assert {dtype for _, dtype, _ in made.weight_specs} == dtypes
    assert sum(count for _, _, count in made.weight_specs) == sum(weight.count for weight in made.lowered.weights)


def test_weights_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    case = bn()
    case.members[1][case.weights[0]].reshape(-1)[0] = 1e6
    bundle = write(case, tmp_path / "large.dni")
    with pytest.raises(EngineError, match=f"beyond 65504, the largest float16, first '{case.weights[0]}"):
        network(bundle, "fp16")
    network(bundle, "fp32")

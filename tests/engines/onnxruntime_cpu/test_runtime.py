"""The in-place session sees its memory, and the optimizer gets the settings of a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dni_deploy.errors import EngineError, InputError, LimitError
from engines import ort_session
from engines.onnxruntime_cpu import runtime
from tests.support.handmade_graphs import HAND


@pytest.fixture
def optimized() -> onnx.ModelProto:
    case = HAND["conv_bn"]()
    return runtime.optimize_graph(ort_session.bind_initializers(case.graph, case.members[0]))


def test_a_change_of_the_memory_is_seen_and_closing_drops_it(optimized: onnx.ModelProto) -> None:
    arrays = {
        tensor.name: onnx.numpy_helper.to_array(tensor).copy()
        for tensor in optimized.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    before = optimized.SerializeToString(deterministic=True)
    session = runtime.InPlaceSession(optimized, arrays, threads=1)
    x = HAND["conv_bn"]().inputs()[0]
    first = session.run(x)
    for array in arrays.values():
        array *= 2
    assert not np.array_equal(session.run(x), first)
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(x)
    assert optimized.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("reason", "writes", "kind", "message"),
    [
        ("28", False, LimitError, "There is no room in the folder for temporary files"),
        ("13", False, InputError, "Nothing can be written to the folder for temporary files"),
        ("Protobuf serialization failed.", True, InputError, "Nothing can be written to the folder for temporary files"),
        ("no kernel for this node", False, EngineError, "no kernel"),
    ],
)
def test_a_folder_for_temporary_files_that_fails_is_explained(
    monkeypatch: pytest.MonkeyPatch, reason: str, writes: bool, kind: type[Exception], message: str
) -> None:
    def create_session(model: Any, options: Any, **_: Any) -> None:
        if writes:
            Path(options.optimized_model_filepath).touch()
        raise EngineError(f"ONNX Runtime could not open the network: {reason}")

    monkeypatch.setattr(ort_session, "create_session", create_session)
    with pytest.raises(kind, match=message):
        runtime.optimize_graph(HAND["conv_bn"]().graph)


def test_the_block_size_is_one_that_processors_have() -> None:
    assert runtime.measure_block_size() in (0, 4, 8, 16)
    assert not runtime.can_block_channels(0)
    assert not runtime.can_block_channels(3)
    assert runtime.can_block_channels(48) == (runtime.measure_block_size() > 0)


def test_every_setting_is_described_in_the_identity() -> None:
    described = runtime.OPTIMIZER_SETTINGS.to_json()
    assert described["disabled_optimizers"] == list(runtime.VALUE_DEPENDENT_OPTIMIZERS)
    assert replace(runtime.OPTIMIZER_SETTINGS, threads=7).to_json() != described


def test_weights_passed_as_arrays_are_optimized_as_those_in_the_graph(optimized: onnx.ModelProto) -> None:
    case = HAND["conv_bn"]()
    weights = {name: np.ascontiguousarray(value, np.float32) for name, value in case.members[0].items()}
    with runtime.optimize_with_weights(case.graph, weights) as (got, values):
        expected = {t.name: onnx.numpy_helper.to_array(t) for t in optimized.graph.initializer if t.data_type == 1}
        assert sorted((v.shape, v.tobytes()) for v in values.values()) == sorted(
            (v.shape, v.tobytes()) for v in expected.values()
        )
        assert [node.op_type for node in got.graph.node] == [node.op_type for node in optimized.graph.node]
        assert not any(t.raw_data or t.external_data for t in got.graph.initializer if t.name in values)


@pytest.mark.parametrize("has_subgraphs", [False, True])
def test_other_data_stays_in_the_optimized_graph(has_subgraphs: bool) -> None:
    """Integers beyond the size from which ONNX Runtime moves data to the weight file, in the graph and in a subgraph."""
    order = np.arange(300, dtype=np.int64)[::-1].copy()
    branches = {
        f"{name}_branch": onnx.helper.make_graph(
            [onnx.helper.make_node("Gather", ["y", f"{name} order"], [name], axis=1)],
            name,
            [],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(np.roll(order, shift), f"{name} order")],
        )
        for shift, name in enumerate(("then", "else"))
    }
    choose = [
        onnx.helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        onnx.helper.make_node("Cast", ["sum"], ["positive"], to=onnx.TensorProto.BOOL),
        onnx.helper.make_node("If", ["positive"], ["out"], **branches),
    ]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Gather", ["x", "order"], ["z"], axis=1),
            onnx.helper.make_node("Mul", ["z", "w"], ["y"]),
            *(choose if has_subgraphs else [onnx.helper.make_node("Gather", ["y", "order"], ["out"], axis=1)]),
        ],
        "integers",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 300])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(order, "order"),
            onnx.TensorProto(name="w", dims=[300], data_type=onnx.TensorProto.FLOAT),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    weight = np.arange(300, dtype=np.float32)
    with runtime.optimize_with_weights(model, {"w": weight}) as (optimized, values):
        arrays = {name: value.copy() for name, value in values.items()}
    x = np.random.default_rng(0).random((1, 300)).astype(np.float32)
    for run_input, shift in ((x, 0), (np.zeros_like(x), 1)):
        expected = (run_input[:, order] * weight)[:, np.roll(order, shift if has_subgraphs else 0)]
        np.testing.assert_array_equal(runtime.InPlaceSession(optimized, arrays, threads=1).run(run_input), expected)


def test_a_weight_that_is_read_from_the_placeholder_shows_in_the_output(
    optimized: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {
        tensor.name: onnx.numpy_helper.to_array(tensor).copy()
        for tensor in optimized.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    monkeypatch.setattr(runtime.ort.SessionOptions, "add_initializer", lambda self, name, value: None)
    try:
        output = runtime.InPlaceSession(optimized, arrays, threads=1).run(HAND["conv_bn"]().inputs()[0])
    except EngineError:  # ONNX Runtime 1.20 does not even find the file
        return
    assert np.isnan(output).any()

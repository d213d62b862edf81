"""The in-place session sees its memory, and the optimizer gets the settings of a plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from dni_deploy.errors import EngineError
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


def test_the_block_size_is_one_that_processors_have() -> None:
    assert runtime.measure_block_size() in (0, 4, 8, 16)
    assert not runtime.can_block_channels(0)
    assert not runtime.can_block_channels(3)
    assert runtime.can_block_channels(48) == (runtime.measure_block_size() > 0)


def test_every_setting_is_described_in_the_identity() -> None:
    described = runtime.OPTIMIZER_SETTINGS.to_json()
    assert described["disabled_optimizers"] == list(runtime.VALUE_DEPENDENT_OPTIMIZERS)
    assert replace(runtime.OPTIMIZER_SETTINGS, threads=7).to_json() != described

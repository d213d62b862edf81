"""Blocked PRelu: the optimized graph gets its PRelus back, in the blocked layout, with the very bits of a stock session."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engines import ort_session
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.blocked_prelu import restore_prelu
from engines.onnxruntime_cpu.layout import find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu

pytestmark = pytest.mark.skipif(
    runtime.measure_block_size() == 0, reason="ONNX Runtime has no blocked layout on this processor"
)

CHANNELS = 32


def chain(slopes: int = CHANNELS, *, added: bool = False) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """conv, PRelu (plus the input of it, where `added`), conv; random weights, slopes from -0.5 to 1.5."""
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.standard_normal((CHANNELS, 3, 3, 3)),
        "slope": rng.uniform(-0.5, 1.5, (slopes, 1, 1)),
        "last": rng.standard_normal((CHANNELS, CHANNELS, 3, 3)),
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["a", "slope"], ["b"]),
        *([helper.make_node("Add", ["b", "a"], ["c"])] if added else []),
        helper.make_node("Conv", ["c" if added else "b", "last"], ["y"], pads=[1, 1, 1, 1]),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", CHANNELS, "h", "w"])
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "chain", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), weights


@pytest.mark.parametrize("slopes", [CHANNELS, 1])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 7, 9), (2, 3, 16, 5)])
def test_it_computes_the_same(slopes: int, added: bool, shape: tuple[int, ...]) -> None:
    model, weights = chain(slopes, added=added)
    lowered, recipes = lower_for_cpu(model, tuple(weights))
    layout = find_layout(lowered, recipes)
    row = np.zeros(layout.size, np.float32)
    layout.arrange_weights(recipes.compute_values(weights), row)
    bound = ort_session.bind_initializers(
        layout.optimized, {s.name: row[s.start : s.stop].reshape(s.shape) for s in layout.spans}
    )
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    got, expected = (
        ort_session.run_session(session, x)
        for session in (
            ort_session.create_session(bound, runtime.make_unoptimized_options()),
            ort_session.open_cpu_session(model),
        )
    )
    # 1 - (1 - s) differs from s by one rounding of a number up to 1.5; 288 products each are added up behind it.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * float(np.abs(expected).max()))


def test_no_pass_over_the_activation_but_the_prelu_remains() -> None:
    model, weights = chain()
    kinds = Counter(node.op_type for node in find_layout(*lower_for_cpu(model, tuple(weights))).optimized.graph.node)
    assert kinds["PRelu"] == 1
    assert kinds["Conv"] == 2  # the depthwise ones are gone
    assert kinds["ReorderInput"] == 0
    assert kinds["ReorderOutput"] == 1
    stock = Counter(node.op_type for node in runtime.optimize_graph(model).graph.node)
    assert stock["ReorderInput"] + stock["ReorderOutput"] == 3  # what it saves: one before and one after the PRelu


def test_a_pair_that_is_no_prelu_stays() -> None:
    model, weights = chain()
    lowered, recipes = lower_for_cpu(model, tuple(weights))
    constant = next(tensor for tensor in lowered.graph.initializer if tensor.name.startswith("times -1.0"))
    constant.CopyFrom(numpy_helper.from_array(np.full((CHANNELS, 1, 1, 1), -2, np.float32), constant.name))
    optimized = runtime.optimize_graph(ort_session.bind_initializers(lowered, recipes.compute_values(weights)))
    live = {tensor.name for tensor in optimized.graph.initializer if not tensor.name.startswith("times")}
    before = optimized.SerializeToString(deterministic=True)
    assert restore_prelu(optimized, live, runtime.measure_block_size()) == 0
    assert optimized.SerializeToString(deterministic=True) == before


def test_the_block_is_what_this_processor_has() -> None:
    assert runtime.measure_block_size() in (8, 16)

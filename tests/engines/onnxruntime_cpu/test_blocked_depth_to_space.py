"""Blocked DepthToSpace: the same bits, and only where whole blocks can move."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engines import ort_session
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.blocked_depth_to_space import block_depth_to_space

BLOCK = runtime.measure_block_size()

pytestmark = pytest.mark.skipif(BLOCK == 0, reason="ONNX Runtime has no blocked layout on this processor")


def optimize(channels: int, *, size: int = 2, mode: str = "DCR", outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """A convolution and a DepthToSpace to so many channels, as ONNX Runtime optimizes them."""
    weight = np.random.default_rng(0).standard_normal((channels * size**2, BLOCK, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["a"], ["y"], blocksize=size, mode=mode),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "shuffle", [info("x", onnx.TensorProto.FLOAT, ["n", BLOCK, "h", "w"])],
        [info(name, onnx.TensorProto.FLOAT, None) for name in outputs], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    return runtime.optimize_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


@pytest.mark.parametrize(("channels", "size"), [(BLOCK, 2), (3 * BLOCK, 2), (2 * BLOCK, 3)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 4), (1, 17, 31)])
def test_it_computes_the_same(channels: int, size: int, shape: tuple[int, int, int]) -> None:
    optimized = optimize(channels, size=size)
    x = np.random.default_rng(1).standard_normal((shape[0], BLOCK, *shape[1:])).astype(np.float32)
    options = runtime.make_unoptimized_options(1)
    expected = ort_session.run_session(ort_session.create_session(optimized, options), x)
    assert block_depth_to_space(optimized, BLOCK) == 1
    kinds = Counter(node.op_type for node in optimized.graph.node)
    assert (kinds["DepthToSpace"], kinds["ReorderOutput"], kinds["Transpose"]) == (0, 1, 1)
    np.testing.assert_array_equal(ort_session.run_session(ort_session.create_session(optimized, options), x), expected)


@pytest.mark.parametrize(
    "optimized",
    [
        optimize(BLOCK, mode="CRD"),  # the channels of a pixel do not lie together
        optimize(BLOCK // 2),  # half a block per pixel
        optimize(BLOCK, outputs=("y", "a")),  # the channels as they are are an output too
    ]
    if BLOCK
    else [],
)
def test_others_stay(optimized: onnx.ModelProto) -> None:
    before = optimized.SerializeToString(deterministic=True)
    assert block_depth_to_space(optimized, BLOCK) == 0
    assert optimized.SerializeToString(deterministic=True) == before

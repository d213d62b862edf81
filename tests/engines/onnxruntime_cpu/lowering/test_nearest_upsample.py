"""A convolution before the enlargement: the same picture at every size, and only where a reflection makes that exact."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from engines import ort_session
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.layout import find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu

pytestmark = pytest.mark.skipif(
    runtime.measure_block_size() == 0, reason="ONNX Runtime has no blocked layout on this processor"
)

CHANNELS = 16
RESIZE = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
SIZES = [(1, 1, 1), (1, 1, 2), (2, 2, 1), (1, 3, 5), (2, 8, 9), (1, 67, 71)]


def enlarged(
    outputs: int = CHANNELS,
    *,
    bias: bool = True,
    kernel: int = 3,
    scales: tuple[float, ...] = (1, 1, 2, 2),
    pads: tuple[int, ...] = (0, 0, 1, 1) * 2,
    resize: dict[str, Any] | None = None,
    pad_mode: str = "reflect",
    read_twice: str = "",
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, NDArray[np.float32]]]:
    """Resize, Pad, convolution; all weights are integers, so that every order of additions gives the same bits."""
    rng = np.random.default_rng(0)
    inputs = CHANNELS // attributes.get("group", 1)
    weights = {"w": rng.integers(-8, 9, (outputs, inputs, kernel, kernel)).astype(np.float32)}
    if bias:
        weights["b"] = rng.integers(-8, 9, outputs).astype(np.float32)
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["large"], **{**RESIZE, **(resize or {})}),
        helper.make_node("Pad", ["large", "pads"], ["padded"], mode=pad_mode),
        helper.make_node("Conv", ["padded", *weights], ["y"], **attributes),
    ]
    info = helper.make_tensor_value_info
    results = [info("y", onnx.TensorProto.FLOAT, ["n", outputs, "p", "q"])]
    if read_twice:
        nodes.append(helper.make_node("Relu", [read_twice], ["z"]))
        results.append(info("z", onnx.TensorProto.FLOAT, None))
    constants = {"scales": np.array(scales, np.float32), "pads": np.array(pads, np.int64)}
    graph = helper.make_graph(
        nodes, "enlarged", [info("x", onnx.TensorProto.FLOAT, ["n", CHANNELS, "h", "w"])], results,
        [numpy_helper.from_array(value, name) for name, value in (weights | constants).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), weights


def is_rewritten(model: onnx.ModelProto, weights: dict[str, NDArray[np.float32]]) -> bool:
    return any(node.op_type == "DepthToSpace" for node in lower_for_cpu(model, tuple(weights))[0].graph.node)


def run_optimized(
    model: onnx.ModelProto, weights: dict[str, NDArray[np.float32]], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the in-place engine runs: the optimized graph, not optimized again."""
    lowered, recipes = lower_for_cpu(model, tuple(weights))
    layout = find_layout(lowered, recipes)
    row = np.zeros(layout.size, np.float32)
    layout.arrange_weights(recipes.compute_values(weights), row)
    views = {span.name: row[span.start : span.stop].reshape(span.shape) for span in layout.spans}
    bound = ort_session.bind_initializers(layout.optimized, views)
    return ort_session.run_session(ort_session.create_session(bound, runtime.make_unoptimized_options(1)), x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("outputs", "bias"), [(CHANNELS, True), (3 * CHANNELS, False), (6, True)])
def test_the_picture_is_the_same_to_the_last_bit(size: tuple[int, int, int], outputs: int, bias: bool) -> None:
    """Six outputs fill no block, so that the pixels are put in order outside the blocked layout."""
    model, weights = enlarged(outputs, bias=bias)
    assert is_rewritten(model, weights)
    x = np.random.default_rng(1).integers(-8, 9, (size[0], CHANNELS, *size[1:])).astype(np.float32)
    expected = ort_session.run_session(ort_session.open_cpu_session(model, 1), x)
    np.testing.assert_array_equal(run_optimized(model, weights, x), expected)


def test_the_error_is_that_of_float32() -> None:
    """Against float64, with weights and numbers that are rounded."""
    model, weights = enlarged()
    rng = np.random.default_rng(2)
    weights = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in weights.items()}
    x = rng.standard_normal((1, CHANNELS, 33, 35)).astype(np.float32)
    large = np.pad(x[0].astype(np.float64).repeat(2, 1).repeat(2, 2), ((0, 0), (1, 1), (1, 1)), "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(large, (3, 3), (1, 2))
    expected = np.einsum("ihwpq,oipq->ohw", windows, weights["w"].astype(np.float64)) + weights["b"][:, None, None]
    # 64 products are added up, each sum rounded by 2^-24 of itself; measured 2e-7.
    np.testing.assert_allclose(run_optimized(model, weights, x)[0], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_no_enlarged_image_is_left_and_pixels_are_ordered_in_blocks() -> None:
    model, weights = enlarged()
    lowered, recipes = lower_for_cpu(model, tuple(weights))
    assert {name: recipe.shape for name, recipe in recipes.linear.items()} == {"w": (64, 16, 2, 2), "b": (64,)}
    kinds = Counter(node.op_type for node in find_layout(lowered, recipes).optimized.graph.node)
    assert kinds["Resize"] == kinds["DepthToSpace"] == 0
    assert kinds["Transpose"] == kinds["ReorderInput"] == kinds["ReorderOutput"] == 1


@pytest.mark.parametrize(
    "other",
    [
        {"scales": (1, 1, 3, 3)},
        {"scales": (1, 1, 2, 1)},
        {"scales": (1, 1, 4, 4)},
        {"resize": {"mode": "linear"}},
        {"resize": {"nearest_mode": "ceil"}},
        {"resize": {"nearest_mode": "round_prefer_floor"}},
        {"resize": {"coordinate_transformation_mode": "align_corners"}},
        {"resize": {"coordinate_transformation_mode": "half_pixel"}},
        {"scales": (2, 2), "resize": {"axes": [2, 3]}},
        {"pad_mode": "constant"},
        {"pad_mode": "edge"},
        {"pads": (0, 0, 2, 2) * 2, "kernel": 5},
        {"pads": (0, 0, 1, 0, 0, 0, 1, 1)},
        {"kernel": 1},
        {"group": 2},
        {"strides": [2, 2]},
        {"dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER"},
        {"read_twice": "large"},
        {"read_twice": "padded"},
    ],
)
def test_others_stay(other: dict[str, Any]) -> None:
    assert not is_rewritten(*enlarged(**other))


def test_zeros_around_the_enlarged_image_stay() -> None:
    """As RRDBNet has them, with and without a Pad before."""
    model, weights = enlarged(pads=(0,) * 8)
    model.graph.node[2].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    assert not is_rewritten(model, weights)
    model.graph.node[2].input[0] = "large"
    del model.graph.node[1]
    assert not is_rewritten(model, weights)


def test_a_convolution_with_a_border_of_its_own_stays() -> None:
    model, weights = enlarged()
    model.graph.node[2].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    assert not is_rewritten(model, weights)


def test_a_weight_that_another_convolution_reads_stays() -> None:
    model, weights = enlarged()
    model.graph.node.append(helper.make_node("Conv", ["y", "w"], ["twice"]))
    model.graph.output[0].name = "twice"
    assert not is_rewritten(model, weights)

"""Narrow output: several output pixels at once give the same picture, at every size, and only where that is worth it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engines import ort_session
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu

pytestmark = pytest.mark.skipif(
    runtime.measure_block_size() < 16, reason="four times three outputs do not fit this processor's block"
)

INPUTS = 16


def padded(
    kernel: tuple[int, int], *, outputs: int = 3, pads: tuple[int, ...] = (0, 0, 0, 0), bias: bool = True, **attributes: object
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A convolution to INPUTS channels, a reflecting Pad, a convolution with few outputs; random weights."""
    rng = np.random.default_rng(0)
    weights = {"first": rng.standard_normal((INPUTS, 3, 1, 1)), "last": rng.standard_normal((outputs, INPUTS, *kernel))}
    if bias:
        weights["bias"] = rng.standard_normal(outputs)
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"]),
        helper.make_node("Pad", ["a", "around"], ["b"], mode="reflect"),
        helper.make_node("Conv", ["b", *list(weights)[1:]], ["y"], pads=list(pads), **attributes),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", outputs, "p", "q"])
    around = np.array([0, 0, kernel[0] // 2, kernel[1] // 2] * 2, np.int64)
    initializers = [numpy_helper.from_array(value, name) for name, value in {**weights, "around": around}.items()]
    graph = helper.make_graph(nodes, "padded", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), weights


def is_stepped(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "DepthToSpace" for node in model.graph.node)


@pytest.mark.parametrize(
    ("kernel", "pads"), [((9, 9), (0, 0, 0, 0)), ((7, 7), (0, 0, 0, 0)), ((2, 4), (0, 0, 0, 0)), ((3, 3), (1, 2, 0, 1))]
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 8, 10), (2, 9, 10), (1, 12, 7), (1, 11, 13), (1, 14, 9)])
def test_the_picture_is_the_same(
    kernel: tuple[int, int], pads: tuple[int, ...], bias: bool, size: tuple[int, int, int]
) -> None:
    model, weights = padded(kernel, pads=pads, bias=bias)
    lowered, recipes = lower_for_cpu(model, tuple(weights))
    assert is_stepped(lowered)
    x = np.random.default_rng(1).standard_normal((size[0], 3, *size[1:])).astype(np.float32)
    expected = ort_session.run_session(ort_session.open_cpu_session(model), x)
    got = ort_session.run_session(
        ort_session.open_cpu_session(ort_session.bind_initializers(lowered, recipes.compute_values(weights))), x
    )
    assert got.shape == expected.shape
    # Up to 16 * 81 products in another order: each addition rounds by 2^-24 of a sum that stays within the largest output.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    ("outputs", "kernel", "step"), [(1, 5, 2), (3, 5, 2), (4, 5, 2), (4, 9, 2), (1, 7, 4), (3, 7, 4), (3, 9, 4)]
)
def test_few_outputs_are_stepped(outputs: int, kernel: int, step: int) -> None:
    """By four pixels where the kernel is large, and sixteen pixels fill no more than three blocks of outputs."""
    model, weights = padded((kernel, kernel), outputs=outputs)
    lowered, recipes = lower_for_cpu(model, tuple(weights))
    assert is_stepped(lowered)
    assert recipes.linear["last"].shape == (step**2 * outputs, INPUTS, kernel + step - 1, kernel + step - 1)
    assert recipes.linear["bias"].shape == (step**2 * outputs,)


@pytest.mark.parametrize(
    ("outputs", "kernel", "attributes"),
    [
        (5, (5, 5), {}),  # four times as many outputs do not fit one block
        (3, (1, 1), {}),  # nothing to gain
        (3, (5, 5), {"strides": [2, 2]}),
        (3, (3, 3), {"dilations": [2, 2]}),
    ],
)
def test_others_stay(outputs: int, kernel: tuple[int, int], attributes: dict[str, object]) -> None:
    model, weights = padded(kernel, outputs=outputs, **attributes)
    assert not is_stepped(lower_for_cpu(model, tuple(weights))[0])


def test_a_convolution_that_is_not_behind_a_pad_stays() -> None:
    model, weights = padded((3, 3))
    del model.graph.node[1]
    model.graph.node[1].input[0] = "a"
    assert not is_stepped(lower_for_cpu(model, tuple(weights))[0])

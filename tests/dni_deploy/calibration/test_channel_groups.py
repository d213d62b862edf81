"""Channels are tied where the network ties them: permuting what is left changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

pytest.importorskip("scipy")
from dni_deploy.calibration.alignment import permute_tensors
from dni_deploy.calibration.channel_groups import Placement, find_channel_groups
from dni_deploy.utils.compare_arrays import relative_error
from engines.ort_session import bind_initializers, open_cpu_session, run_session
from tests.support.channel_graphs import SHAPE, ChannelGraph


def split(graph: ChannelGraph, a: str) -> str:
    halves = graph.node("Split", [a], 4, outputs=2, axis=1, num_outputs=2)
    return str(graph.node("Mul", halves))


def swap_halves(graph: ChannelGraph, a: str) -> str:
    axes = graph.constant([1])
    ends = [(graph.constant([start]), graph.constant([end])) for start, end in ((0, 4), (4, 1 << 62))]
    first, second = (graph.node("Slice", [a, start, end, axes], 4) for start, end in ends)
    return str(graph.node("Concat", [second, first], 8, axis=1))


def add_to_concat(graph: ChannelGraph, a: str) -> str:
    both = graph.node("Concat", [a, graph.conv(a, 4)], 12, axis=1)
    return str(graph.node("Add", [both, graph.conv("x", 12)]))


def squeeze_and_excite(graph: ChannelGraph, a: str) -> str:
    pooled = graph.node("GlobalAveragePool", [a])
    gate = graph.conv(graph.node("Relu", [graph.conv(pooled, 4, kernel=1)]), 8, kernel=1)
    return str(graph.node("Mul", [a, graph.node("Sigmoid", [gate])]))


def linear_layers(graph: ChannelGraph, a: str) -> str:
    last = graph.node("Transpose", [a], perm=[0, 2, 3, 1])
    norms = [graph.weight("norm.weight", 8), graph.weight("norm.bias", 8)]
    hidden = graph.node("MatMul", [graph.node("LayerNormalization", [last, *norms]), graph.weight("up.weight", 8, 6)])
    hidden = graph.node("Add", [hidden, graph.weight("up.bias", 6)])
    out = graph.node("MatMul", [graph.node("Relu", [hidden]), graph.weight("down.weight", 6, 5)])
    return str(graph.node("Transpose", [out], 5, perm=[0, 3, 1, 2]))


def gemm(graph: ChannelGraph, a: str) -> str:
    pooled = graph.node("Flatten", [graph.node("GlobalMaxPool", [a])])
    hidden = graph.node("Gemm", [pooled, graph.weight("one", 6, 8), graph.weight("one.bias", 6)], 6, transB=1)
    gate = graph.node("Gemm", [graph.node("Relu", [hidden]), graph.weight("two", 6, 8)], 8)
    return str(graph.node("Mul", [a, graph.node("Unsqueeze", [gate, graph.constant([2, 3])])]))


def shuffle_by_reshape(graph: ChannelGraph, a: str) -> str:
    cut = graph.node("Reshape", [a, graph.constant([1, 2, 2, 2, 8, 8])])
    moved = graph.node("Transpose", [cut], perm=[0, 1, 4, 2, 5, 3])
    return str(graph.node("Reshape", [moved, graph.constant([1, 2, 16, 16])], 2))


def channel_attention(graph: ChannelGraph, a: str) -> str:
    return str(graph.node("Mul", [a, graph.node("Sigmoid", [graph.node("ReduceMean", [a, graph.constant([1])])])]))


def pad(graph: ChannelGraph, a: str) -> str:
    return str(graph.node("Pad", [a, graph.constant([0, 0, 1, 1, 0, 0, 1, 1])], mode="reflect"))


def pad_channels(graph: ChannelGraph, a: str) -> str:
    return str(graph.node("Pad", [a, graph.constant([0, 1, 0, 0, 0, 0, 0, 0])], 9))


def multiply_by(*values: float) -> Callable[[ChannelGraph, str], str]:
    return lambda graph, a: str(graph.node("Mul", [a, graph.constant(np.array(values, np.float32).reshape(8, 1, 1))]))


def up_and_down(graph: ChannelGraph, a: str) -> str:
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    large = graph.node("Resize", [a, "", scales], mode="linear")
    return str(graph.node("MaxPool", [large], kernel_shape=[2, 2], strides=[2, 2]))


def transposed_in_groups(graph: ChannelGraph, a: str) -> str:
    return str(graph.node("ConvTranspose", [a, graph.weight("t", 8, 3, 2, 2), graph.weight("t.bias", 6)], 6, group=2))


def scale_by_shape(graph: ChannelGraph, a: str) -> str:
    """The numbers of a shape have their places; a weight that meets them has, too."""
    sizes = graph.node("Cast", [graph.node("Shape", [a])], to=1)
    gains = graph.node("Mul", [sizes, graph.weight("gains", 4)])
    return str(graph.node("Mul", [a, graph.node("ReduceMean", [gains, graph.constant([0])])]))


def transposed(graph: ChannelGraph, a: str) -> str:
    return str(graph.node("ConvTranspose", [a, graph.weight("t", 8, 6, 2, 2), graph.weight("t.bias", 6)], 6, strides=[2, 2]))


CASES: dict[str, tuple[Callable[[ChannelGraph, str], str], tuple[int, ...]]] = {
    "activation": (lambda graph, a: graph.node("LeakyRelu", [a]), (8,)),
    "residual": (lambda graph, a: graph.node("Add", [a, graph.conv(graph.node("Relu", [graph.conv(a, 6)]), 8)]), (8, 6)),
    "dense": (lambda graph, a: graph.node("Concat", [a, graph.conv(a, 4)], 12, axis=1), (8, 4)),
    "sum with a concatenation": (add_to_concat, (8, 4)),
    "split": (split, (4,)),
    "slices": (swap_halves, (4, 4)),
    "pixel shuffle": (lambda graph, a: graph.node("DepthToSpace", [a], 2, blocksize=2, mode="CRD"), (2,)),
    "depth to space": (lambda graph, a: graph.node("DepthToSpace", [a], 2, blocksize=2), (2,)),
    "space to depth": (lambda graph, a: graph.node("SpaceToDepth", [a], 32, blocksize=2), (8,)),
    "pixel shuffle by reshape": (shuffle_by_reshape, (2,)),
    "depthwise": (lambda graph, a: graph.conv(a, 8, group=8), (8,)),
    "depthwise, twice as many": (lambda graph, a: graph.conv(a, 16, group=8), (8,)),
    "grouped": (lambda graph, a: graph.conv(a, 6, group=2), (2,)),
    "shared weight": (lambda graph, a: graph.conv(graph.conv(a, 8, weight="w"), 8, weight="w"), (8,)),
    "norm and slope": (lambda graph, a: graph.prelu(graph.batch_norm(a)), (8,)),
    "squeeze and excite": (squeeze_and_excite, (8, 4)),
    "gate of two linear layers": (gemm, (8, 6)),
    "linear layers": (linear_layers, (8, 6, 5)),
    "channel attention": (channel_attention, (8,)),
    "padding": (pad, (8,)),
    "resize and pool": (up_and_down, (8,)),
    "transposed convolution": (transposed, (8, 6)),
    "transposed convolution in groups": (transposed_in_groups, (2,)),
    "numbers of a shape": (scale_by_shape, (8,)),
    "a constant that is the same for all": (multiply_by(*[0.5] * 8), (8,)),
    "a constant that differs": (multiply_by(*range(1, 9)), ()),
    "an unknown operator": (lambda graph, a: graph.node("CumSum", [a, graph.constant(np.array(1))]), ()),
    "padding of the channels": (pad_channels, ()),
    "channels picked by index": (lambda graph, a: graph.node("Gather", [a, graph.constant([3, 1])], 2, axis=1), ()),
}


@pytest.mark.parametrize("case", CASES)
def test_channels_are_tied_as_the_operators_tie_them(case: str) -> None:
    build, sizes = CASES[case]
    graph = ChannelGraph()
    model = graph.model(graph.conv(build(graph, graph.conv("x", 8)), 3))
    groups = find_channel_groups(model, graph.weights)
    assert sorted(groups.sizes) == sorted(sizes)

    permuted = permute_tensors(graph.weights, groups, [np.roll(np.arange(size), 1) for size in groups.sizes])
    moved = {name for name, value in permuted.items() if not np.array_equal(value, graph.weights[name])}
    assert moved == set(groups.placements)
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    one, other = (run_session(open_cpu_session(bind_initializers(model, w)), x) for w in (graph.weights, permuted))
    assert relative_error(other, one) < 1e-5  # a channel at a wrong place gives 0.1 and more


def test_a_group_knows_its_places_in_a_weight() -> None:
    graph = ChannelGraph()
    a = graph.conv("x", 8, weight="first")
    b = graph.conv(a, 4, weight="second")
    last = graph.conv(graph.node("Concat", [b, a], 12, axis=1), 3, weight="last")
    groups = find_channel_groups(graph.model(last), graph.weights)
    assert groups.placements["first.bias"] == (Placement(0, 0, 0, 1),)
    assert groups.placements["second.weight"] == (Placement(0, 0, 1, 1), Placement(1, 0, 0, 1))
    assert groups.placements["last.weight"] == (Placement(1, 0, 1, 1), Placement(1, 4, 0, 1))
    assert "last.bias" not in groups.placements


def test_the_image_keeps_its_channels() -> None:
    graph = ChannelGraph()
    a = graph.conv("x", 3)
    groups = find_channel_groups(graph.model(graph.node("Add", [a, "x"])), graph.weights)
    assert groups.sizes == ()


def test_a_subgraph_fixes_everything() -> None:
    graph = ChannelGraph()
    a = graph.conv("x", 8)
    branch: Any = helper.make_graph(
        [helper.make_node("CumSum", [a, graph.constant(np.array(1))], ["inside"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    chosen = graph.node("If", [graph.constant(np.array(True))], 8, then_branch=branch, else_branch=branch)
    added = graph.node("Add", [graph.conv(graph.node("Relu", [a]), 8), chosen])
    assert find_channel_groups(graph.model(graph.conv(added, 3)), graph.weights).sizes == ()

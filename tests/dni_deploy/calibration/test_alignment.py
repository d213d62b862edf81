"""Permuted copies are put back exactly, bit for bit, and a member that would compute something else is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("scipy")
from dni_deploy.calibration import alignment
from dni_deploy.calibration.alignment import (
    MemberAlignment,
    align_family,
    find_orders,
    permute_tensors,
    verify_same_function,
)
from dni_deploy.calibration.channel_groups import ChannelGroups, find_channel_groups
from dni_deploy.checkpoints.family import Family
from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from engines.ort_session import bind_initializers, open_cpu_session, run_session
from tests.support.channel_graphs import SHAPE, ChannelGraph

Tensors = dict[str, NDArray[Any]]
SIGNATURE = Signature(input_channels=3, output_channels=3, radius=1)


def draw_orders(groups: ChannelGroups, seed: int = 7) -> list[NDArray[np.intp]]:
    random = np.random.default_rng(seed)
    return [random.permutation(size) for size in groups.sizes]


def are_equal(one: Tensors, other: Tensors) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def add_noise(tensors: Tensors, level: float, seed: int = 3) -> Tensors:
    random = np.random.default_rng(seed)
    return {
        name: (value + level * value.std() * random.standard_normal(value.shape)).astype(np.float32)
        for name, value in tensors.items()
    }


def residual_network(seed: int = 0) -> tuple[ChannelGraph, onnx.ModelProto]:
    """A stem, two residual blocks, a dense block and an end."""
    graph = ChannelGraph(seed)
    a = graph.conv("x", 12)
    for _ in range(2):
        inside = graph.conv(graph.node("Relu", [graph.conv(a, 10)]), 12)
        a = graph.node("Add", [a, inside])
    for _ in range(2):
        grown = graph.prelu(graph.conv(a, 6))
        a = graph.node("Concat", [a, grown], graph.channels[a] + 6, axis=1)
    return graph, graph.model(graph.conv(a, 3), ("h", "w"))


STEPS = ("conv", "residual", "dense", "norm", "gate", "depthwise", "shuffle", "unet", "excite")


def build_network(steps: Sequence[str], widths: Sequence[int], seed: int) -> tuple[ChannelGraph, onnx.ModelProto]:
    graph = ChannelGraph(seed)
    a = graph.conv("x", 8)
    for step, width in zip(steps, widths, strict=True):
        count = graph.channels[a]
        if step == "conv":
            a = graph.node("Relu", [graph.conv(a, width)])
        elif step == "residual":
            a = graph.node("Add", [graph.conv(graph.node("Relu", [graph.conv(a, width)]), count), a])
        elif step == "dense":
            a = graph.node("Concat", [a, graph.prelu(graph.conv(a, width))], count + width, axis=1)
        elif step == "norm":
            a = graph.batch_norm(a)
        elif step == "gate":
            a = graph.node("Mul", graph.node("Split", [graph.conv(a, 2 * width)], width, outputs=2, axis=1, num_outputs=2))
        elif step == "depthwise":
            a = graph.conv(graph.conv(a, count, group=count), width, kernel=1)
        elif step == "shuffle":
            larger = graph.node("DepthToSpace", [graph.conv(a, 4 * width)], width, blocksize=2, mode="CRD")
            a = graph.node("AveragePool", [larger], kernel_shape=[2, 2], strides=[2, 2])
        elif step == "unet":
            small = graph.node("MaxPool", [graph.conv(a, width)], kernel_shape=[2, 2], strides=[2, 2])
            scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
            large = graph.node("Resize", [graph.conv(small, width), "", scales], mode="nearest")
            a = graph.node("Concat", [large, a], count + width, axis=1)
        else:
            squeezed = graph.node("Relu", [graph.conv(graph.node("GlobalAveragePool", [a]), width, kernel=1)])
            a = graph.node("Mul", [a, graph.node("Sigmoid", [graph.conv(squeezed, count, kernel=1)])])
    return graph, graph.model(graph.conv(a, 3))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(2, 9)), min_size=1, max_size=6), st.integers(0, 1000))
def test_any_permutation_of_any_network_is_undone(steps: list[tuple[str, int]], seed: int) -> None:
    graph, model = build_network([step for step, _ in steps], [width for _, width in steps], seed)
    groups = find_channel_groups(model, graph.weights)
    permuted = permute_tensors(graph.weights, groups, draw_orders(groups, seed))
    x = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
    outputs = [run_session(open_cpu_session(bind_initializers(model, w)), x) for w in (graph.weights, permuted)]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=0, atol=1e-5 * np.abs(outputs[0]).max())
    assert are_equal(graph.weights, permute_tensors(permuted, groups, find_orders(graph.weights, permuted, groups)))


@pytest.mark.parametrize("level", [0.1, 0.5])
def test_noise_on_the_weights_does_not_hide_the_order(level: float) -> None:
    """The midpoint in float64 is that of the pair which was never permuted, bit for bit."""
    graph, model = residual_network()
    groups = find_channel_groups(model, graph.weights)
    noisy = add_noise(graph.weights, level)
    permuted = permute_tensors(noisy, groups, draw_orders(groups))
    aligned = permute_tensors(permuted, groups, find_orders(graph.weights, permuted, groups))
    middles = [
        {name: (graph.weights[name].astype(np.float64) + other[name]) / 2 for name in graph.weights}
        for other in (noisy, aligned, permuted)
    ]
    assert are_equal(middles[0], middles[1])
    assert not are_equal(middles[0], middles[2])


def test_unrelated_networks_never_become_less_alike_and_the_result_is_stable() -> None:
    (one, model), (other, _) = residual_network(0), residual_network(1)
    groups = find_channel_groups(model, one.weights)
    orders = find_orders(one.weights, other.weights, groups)
    assert all(np.array_equal(*pair) for pair in zip(orders, find_orders(one.weights, other.weights, groups), strict=True))

    def likeness(tensors: Tensors) -> float:
        pairs = [(one.weights[name].ravel(), tensors[name].ravel()) for name in one.weights]
        return sum(float(a.size * (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in pairs)

    assert likeness(permute_tensors(other.weights, groups, orders)) > likeness(other.weights) + 10


def test_channels_that_are_the_same_stay_in_their_places() -> None:
    """Networks have channels that ended at zero: any order of these is as good, and none is a reason to move them."""
    graph, model = residual_network()
    for value in graph.weights.values():
        if value.shape[0] == 10:
            value[[1, 5, 8]] = 0
        if value.ndim == 4 and value.shape[1] == 10:
            value[:, [1, 5, 8]] = 0
    groups = find_channel_groups(model, graph.weights)
    near = {
        name: np.where(graph.weights[name] == 0, np.float32(0), value) for name, value in add_noise(graph.weights, 0.1).items()
    }
    orders = find_orders(graph.weights, near, groups)
    assert all(np.array_equal(order, np.arange(len(order))) for order in orders)


def test_large_numbers_of_one_tensor_do_not_outweigh_the_others() -> None:
    """A variance of 1e4 beside filters of 0.1: each tensor counts by its numbers, not by their size."""
    graph = ChannelGraph()
    model = graph.model(graph.conv(graph.batch_norm(graph.conv("x", 16)), 3))
    var = next(name for name in graph.weights if name.endswith("var"))
    random = np.random.default_rng(0)
    graph.weights[var] = random.uniform(1e4, 2e4, 16).astype(np.float32)
    groups = find_channel_groups(model, graph.weights)
    other = add_noise(graph.weights, 0.1)
    other[var] = random.uniform(1e4, 2e4, 16).astype(np.float32)  # says nothing of the order
    permuted = permute_tensors(other, groups, draw_orders(groups))
    assert are_equal(other, permute_tensors(permuted, groups, find_orders(graph.weights, permuted, groups)))


def make_family(graph: ChannelGraph, *others: Tensors) -> Family:
    return Family.from_checkpoints(dict(zip("abc", [graph.weights, *others], strict=False)))


def test_every_member_after_the_first_is_aligned() -> None:
    graph, model = residual_network()
    groups = find_channel_groups(model, graph.weights)
    spare = {"spare": np.arange(4, dtype=np.float32)}
    graph.weights |= spare
    copy = permute_tensors(graph.weights, groups, draw_orders(groups))
    half = {name: value.astype(np.float16) for name, value in copy.items()}
    family = make_family(graph, graph.weights, half)
    aligned, rows = align_family(model, SIGNATURE, family)
    channels = 12 + 10 + 10 + 6 + 6
    assert rows["b"] == MemberAlignment(0, channels)
    assert 30 < rows["c"].moved <= channels
    assert aligned.members[0] is family.members[0]
    tensors = aligned["c"].checkpoint.tensors
    assert all(value.dtype == np.float16 and not value.flags.writeable for value in tensors.values())
    assert are_equal({name: value.astype(np.float16) for name, value in graph.weights.items()}, tensors)
    assert not are_equal(tensors, family["c"].checkpoint.tensors)  # the family that was given is as it was


def test_tensors_that_share_their_values_are_moved_together() -> None:
    graph, model = residual_network()
    groups = find_channel_groups(model, graph.weights)
    name = next(iter(groups.placements))
    permuted = permute_tensors(graph.weights, groups, draw_orders(groups))
    family = Family.from_checkpoints(
        {key: {**value, "alias": value[name]} for key, value in (("a", graph.weights), ("b", permuted))}
    )
    aligned, _ = align_family(model, SIGNATURE, family, {"alias": name})
    tensors = aligned["b"].checkpoint.tensors
    assert np.array_equal(tensors["alias"], graph.weights[name])
    assert np.array_equal(tensors["alias"], tensors[name])


def test_a_network_whose_channels_cannot_move_is_one_sentence() -> None:
    graph = ChannelGraph()
    model = graph.model(graph.conv("x", 3))
    with pytest.raises(MismatchError, match=r"no channel is known to be movable .* Nothing was written\."):
        align_family(model, SIGNATURE, make_family(graph, graph.weights))


def test_a_wrong_permutation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, model = residual_network()
    groups = find_channel_groups(model, graph.weights)
    permuted = permute_tensors(graph.weights, groups, draw_orders(groups))
    assert verify_same_function(model, SIGNATURE, graph.weights, permuted, "b") > 130

    def lose_a_placement(*arguments: Any) -> ChannelGroups:
        name = list(groups.placements)[-2]
        return replace(groups, placements={key: value for key, value in groups.placements.items() if key != name})

    monkeypatch.setattr(alignment, "find_channel_groups", lose_a_placement)
    with pytest.raises(MismatchError, match=r"Member 'b' with its channels in another order differs from itself by \d"):
        align_family(model, SIGNATURE, make_family(graph, permuted))

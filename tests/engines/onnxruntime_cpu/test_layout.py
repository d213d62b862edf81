"""Layout: the map that addresses drew places real weights where ONNX Runtime places them, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from onnx import numpy_helper

from engines import ort_session
from engines.onnxruntime_cpu import layout as layout_module
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.layout import (
    SPAN_ALIGNMENT_FLOATS,
    HostWeightBuffer,
    InPlaceUnsupportedError,
    allocate_aligned,
    find_layout,
)
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from tests.engines.conftest import NAMES, Case
from tests.support.handmade_graphs import HAND, clamped_weight, weight_norm


@pytest.mark.parametrize(
    "name", [*NAMES, "transposed_bn", "bn_after_grouped_conv", "bn_after_depthwise_conv", "tied_convs", "upsampled_conv"]
)
def test_rows_are_what_onnxruntime_makes_of_the_weights(name: str, pico_case: Callable[[str], Case]) -> None:
    case = HAND[name]() if name in HAND else pico_case(name)
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    values = recipes.compute_values(case.members[1])
    arena = HostWeightBuffer(layout)
    layout.arrange_weights(values, arena.flat)
    made = {
        tensor.name: tensor
        for tensor in runtime.optimize_graph(ort_session.bind_initializers(lowered, values)).graph.initializer
    }
    assert arena.views
    for name, view in arena.views.items():
        expected = numpy_helper.to_array(made[name])
        assert view.shape == expected.shape
        assert view.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["compact", "dcgan", "dncnn_bn", "bn_after_grouped_conv"])
def test_places_lead_back(name: str, pico_case: Callable[[str], Case]) -> None:
    """Each element of each weight lies somewhere, where `places` says, and nowhere else."""
    case = HAND[name]() if name in HAND else pico_case(name)
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    values = recipes.compute_values(case.members[0])
    flat = allocate_aligned((layout.size,))
    layout.arrange_weights(values, flat)
    taken = np.zeros(layout.size, np.bool_)
    for weight, value in values.items():
        places, element = layout.find_positions(weight, value.size)
        assert set(element.tolist()) == set(range(value.size))
        assert not taken[places].any()
        taken[places] = True
        np.testing.assert_array_equal(flat[places], value.reshape(-1)[element])
    assert not flat[~taken].any()  # the rest is padding


def test_slots_lie_in_order_on_lines_of_their_own(pico_case: Callable[[str], Case]) -> None:
    case = pico_case("dncnn_bn")
    layout = find_layout(*lower_for_cpu(case.graph, case.weights))
    assert layout.size % SPAN_ALIGNMENT_FLOATS == 0
    for slot, following in pairwise(layout.spans):
        assert slot.start % SPAN_ALIGNMENT_FLOATS == 0
        assert slot.stop <= following.start
        assert slot.stop - slot.start == np.prod(slot.shape)
    arena = HostWeightBuffer(layout)
    assert all(view.ctypes.data % 64 == 0 for view in arena.views.values())


def test_a_graph_without_data_keeps_none(pico_case: Callable[[str], Case]) -> None:
    """The addresses do not stay in the optimized graph."""
    case = pico_case("compact")
    layout = find_layout(*lower_for_cpu(case.graph, case.weights))
    live = {slot.name for slot in layout.spans}
    for tensor in layout.optimized.graph.initializer:
        assert bool(tensor.raw_data or tensor.float_data) != (tensor.name in live) or tensor.name not in live


def test_a_computed_weight_is_refused() -> None:
    case = weight_norm()
    with pytest.raises(InPlaceUnsupportedError, match="computes"):
        find_layout(*lower_for_cpu(case.graph, case.weights))


@pytest.mark.parametrize("op", ["Abs", "Relu", "Neg", "Floor", "Sign"])
def test_a_weight_that_is_changed_is_refused(op: str) -> None:
    """Abs and Relu leave positive numbers as they are, which is why the marks are negative."""
    case = clamped_weight(op)
    with pytest.raises(InPlaceUnsupportedError):
        find_layout(*lower_for_cpu(case.graph, case.weights))


def test_a_weight_beyond_the_range_of_addresses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_module, "MAX_WEIGHT_ELEMENTS", 100)
    case = HAND["conv_bn"]()
    with pytest.raises(InPlaceUnsupportedError, match="more than 100 elements"):
        find_layout(*lower_for_cpu(case.graph, case.weights))


def test_addresses_are_normal_numbers_that_no_constant_is_like() -> None:
    ends = np.array([layout_module.ADDRESS_BASE + 1, layout_module.ADDRESS_BASE + layout_module.MAX_WEIGHT_ELEMENTS], np.uint32)
    first, last = ends.view(np.float32)
    assert -1e-18 < last < first < -np.finfo(np.float32).smallest_normal


def test_a_constant_is_no_weight_and_a_mixture_is_refused() -> None:
    addresses = np.arange(layout_module.ADDRESS_BASE + 1, layout_module.ADDRESS_BASE + 9, dtype=np.uint32).view(np.float32)
    padded = np.concatenate([addresses, np.zeros(8, np.float32)]).reshape(2, 8)
    read = layout_module._read_addresses("w", padded, 8)
    assert read is not None
    assert read.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, *[0] * 8]
    for constant in (0.0, -1.0, 1e-38, -np.inf, np.nan, -np.finfo(np.float32).smallest_normal):
        assert layout_module._read_addresses("constant", np.full(4, constant, np.float32), 8) is None
    for damage in (lambda value: value * 2, np.abs, lambda value: value - 1):
        damaged = padded.copy()
        damaged[0, 4:] = damage(damaged[0, 4:] * np.float32(2**20))
        with pytest.raises(InPlaceUnsupportedError, match="computes 'w' from the weights"):
            layout_module._read_addresses("w", damaged, 8)
    with pytest.raises(InPlaceUnsupportedError, match="computes 'w'"):  # an address beyond the last one
        layout_module._read_addresses("w", padded, 7)

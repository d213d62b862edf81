"""Verify: engines that are broken on purpose, each in a way that was seen in the wild, are caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_rows
from dni_deploy.errors import EngineError
from engines import ort_session
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.engine import InPlaceEngine
from engines.onnxruntime_cpu.layout import InPlaceUnsupportedError, Layout, WeightSpan, allocate_aligned, find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from engines.onnxruntime_cpu.verify_in_place import verify_blend, verify_each_weight, verify_weight_effect
from engines.verification import MAX_RELATIVE_ERROR, make_verification_input
from tests.engines.conftest import NAMES, Case, in_place
from tests.support.handmade_graphs import HAND


@pytest.mark.parametrize("name", [*NAMES, "transposed_bn", "bn_after_grouped_conv", "prelu_wild_slopes"])
def test_a_sound_engine_passes(name: str, pico_case: Callable[[str], Case]) -> None:
    case = HAND[name]() if name in HAND else pico_case(name)
    engine = in_place(case)
    # Far from the limit: 1e-7 to 1e-6, but 2e-5 where InstanceNorm divides by the spread of the few pixels that a probe leaves it.
    assert verify_blend(engine, case.graph, case.members, case.signature) < MAX_RELATIVE_ERROR["fp32"] / 3
    verify_weight_effect(engine, case.signature)
    with pytest.raises(EngineError, match="refit"):  # the weights that it tried are nobody's
        engine.infer(0, make_verification_input(case.signature, 16))
    steps = list(verify_each_weight(engine, case.signature))
    assert steps == [(number + 1, len(steps)) for number in range(len(engine.layout.spans))]


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live sessions are opened at ONNX Runtime's default options, as anybody would."""
    real = ort_session.create_session

    def open_at_defaults(model: Any, options: ort.SessionOptions, **more: Any) -> ort.InferenceSession:
        if options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL and live[0]:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
            options.add_session_config_entry("session.disable_prepacking", "0")
        return real(model, options, **more)

    live = [False]
    opened = runtime.InPlaceSession.__init__

    def init(self: runtime.InPlaceSession, *given: Any, **named: Any) -> None:
        live[0] = True
        try:
            opened(self, *given, **named)
        finally:
            live[0] = False

    monkeypatch.setattr(ort_session, "create_session", open_at_defaults)
    monkeypatch.setattr(runtime.InPlaceSession, "__init__", init)


@pytest.mark.usefixtures("careless")
@pytest.mark.parametrize("name", ["cyclegan", "dcgan"])
def test_weights_that_the_session_packed_are_caught(name: str, pico_case: Callable[[str], Case]) -> None:
    """The optimized graph, opened with pre-packing: transposed convolutions and those outside the blocked layout are repacked."""
    case = pico_case(name)
    engine = in_place(case)
    with pytest.raises(InPlaceUnsupportedError, match="does not see"):
        verify_weight_effect(engine, case.signature)
    with pytest.raises(InPlaceUnsupportedError, match="has no effect"):
        list(verify_each_weight(engine, case.signature))


@pytest.mark.usefixtures("careless")
@pytest.mark.parametrize("name", ["srcnn_959", "dncnn_bn", "compact", "rrdbnet", "dcgan", "bn_after_grouped_conv"])
def test_weights_that_the_session_copied_are_caught(name: str, pico_case: Callable[[str], Case]) -> None:
    """The graph as it is, its weights over our memory, and ONNX Runtime optimizes it at load: it reorders into copies."""
    case = HAND[name]() if name in HAND else pico_case(name)
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    engine = InPlaceEngine(plain(lowered, recipes), recipes, case.members, threads=1, slots=1)
    x = case.inputs()[0]
    outputs = []
    for member in range(2):
        engine.refit(0, np.eye(3)[member])
        outputs.append(engine.infer(0, x))
    right = ort_session.run_session(ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, case.members[1])), x)
    assert np.abs(outputs[1] - right).max() > 1e-3 * np.abs(right).max()  # the slider that does nothing, or half of it
    with pytest.raises(InPlaceUnsupportedError, match="another output"):
        verify_blend(engine, case.graph, case.members, case.signature)
    with pytest.raises(InPlaceUnsupportedError, match="does not see"):
        verify_weight_effect(engine, case.signature)
    with pytest.raises(InPlaceUnsupportedError, match="has no effect"):
        list(verify_each_weight(engine, case.signature))


def plain(lowered: onnx.ModelProto, recipes: Recipes) -> Layout:
    """Each weight where it is, in the graph that was not optimized."""
    slots, offsets, start = [], {}, 0
    for name, recipe in recipes.linear.items():
        size = int(np.prod(recipe.shape))
        slots.append(WeightSpan(name, recipe.shape, start, start + size))
        offsets[name] = start
        start += size
    return Layout(lowered, tuple(slots), np.arange(1, start + 1), offsets)


@pytest.mark.parametrize("name", ["compact", "dncnn_bn", "rrdbnet"])
def test_swapped_places_are_caught(name: str, pico_case: Callable[[str], Case]) -> None:
    """Two weights of one shape, each in the other's place: nothing but the picture is wrong."""
    case = pico_case(name)
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    first, second = next((a, b) for a, b in pairwise(layout.spans) if a.shape == b.shape and len(a.shape) == 4)
    gather = layout.gather.copy()
    gather[first.start : first.stop] = layout.gather[second.start : second.stop]
    gather[second.start : second.stop] = layout.gather[first.start : first.stop]
    engine = InPlaceEngine(replace(layout, gather=gather), recipes, case.members, threads=1)
    verify_weight_effect(engine, case.signature)  # live they are
    with pytest.raises(InPlaceUnsupportedError, match="another output"):
        verify_blend(engine, case.graph, case.members, case.signature)


@pytest.mark.parametrize("name", ["dncnn_bn", "cyclegan_bn", "dcgan", "conv_bn"])
def test_folding_before_blending_is_caught(
    name: str, pico_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What blending a fused export would do: right at the ends, wrong in between."""
    case = HAND[name]() if name in HAND else pico_case(name)
    engine = in_place(case)
    _, recipes = lower_for_cpu(case.graph, case.weights)
    rows = allocate_aligned((len(case.members), engine.layout.size))
    for row, member in zip(rows, case.members, strict=True):
        engine.layout.arrange_weights(recipes.compute_values(member), row)

    def blend(shares: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        blend_rows(rows, shares, out)

    monkeypatch.setattr(engine.blender, "blend", blend)
    with pytest.raises(InPlaceUnsupportedError, match="another output"):
        verify_blend(engine, case.graph, case.members, case.signature)


def test_an_old_epsilon_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """1e-3 read as 1e-5."""
    case = HAND["conv_without_bias_bn"]()
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    recipes.folds[:] = [replace(fold, epsilon=1e-5) for fold in recipes.folds]
    engine = InPlaceEngine(find_layout(lowered, recipes), recipes, case.members, threads=1)
    with pytest.raises(InPlaceUnsupportedError, match="another output"):
        verify_blend(engine, case.graph, case.members, case.signature)


def test_a_member_that_is_not_the_bundles_is_caught() -> None:
    case = HAND["conv_bn"]()
    engine = in_place(case, [case.members[0], case.members[2], case.members[1]])
    with pytest.raises(InPlaceUnsupportedError, match="another output"):
        verify_blend(engine, case.graph, case.members, case.signature)

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
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu import engine as engine_module
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.engine import InPlaceEngine
from engines.onnxruntime_cpu.layout import InPlaceUnsupportedError, Layout, WeightSpan, allocate_aligned, find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from engines.onnxruntime_cpu.verify_in_place import (
    CHANGE_PERIOD,
    _change_weights,
    verify_blend,
    verify_each_weight,
    verify_weight_effect,
)
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
    assert steps == [(number + 1, len(steps)) for number in range(len(engine.weight_buffers[0].views))]


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

    class CarelessSession(runtime.InPlaceSession):
        def __init__(self, *given: Any, **named: Any) -> None:
            live[0] = True
            try:
                super().__init__(*given, **named)
            finally:
                live[0] = False

    monkeypatch.setattr(ort_session, "create_session", open_at_defaults)
    monkeypatch.setattr(engine_module, "InPlaceSession", CarelessSession)


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
    """The graph as it is, its weights over our memory, and ONNX Runtime optimizes it at load: it reorders into copies.

    The copies are of the placeholder file, so that the output is not finite.
    """
    case = HAND[name]() if name in HAND else pico_case(name)
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    engine = InPlaceEngine(plain(lowered, recipes), recipes, case.members, threads=1, slots=1)
    x = case.inputs()[0]
    engine.refit(0, np.eye(3)[1])
    right = ort_session.run_session(ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, case.members[1])), x)
    assert relative_error(engine.infer(0, x), right) > 1e-3  # the slider that does nothing, or half of it
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
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    rows = allocate_aligned((len(case.members), layout.size))
    for row, member in zip(rows, case.members, strict=True):
        layout.arrange_weights(recipes.compute_values(member), row)

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


def test_a_stock_session_decides_where_the_unoptimized_one_differs(
    pico_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = pico_case("compact")
    engine = in_place(case)
    monkeypatch.setattr(runtime.InPlaceSession, "run", lambda self, x: real(self, x) * (1 if self in engine._sessions else 2))
    assert verify_blend(engine, case.graph, case.members, case.signature) < MAX_RELATIVE_ERROR["fp32"]
    monkeypatch.setattr(ort_session, "open_cpu_session", lambda model: pytest.fail("the first one agreed"))
    monkeypatch.setattr(runtime.InPlaceSession, "run", real)
    verify_blend(engine, case.graph, case.members, case.signature)


real = runtime.InPlaceSession.run


def test_every_weight_is_changed() -> None:
    flat = np.random.default_rng(0).standard_normal(2 * CHANGE_PERIOD + 3).astype(np.float32)
    flat[::5] = 0
    before = flat.copy()
    _change_weights(flat, np.random.default_rng(0))
    assert np.isfinite(flat).all()
    assert (flat != before).all()

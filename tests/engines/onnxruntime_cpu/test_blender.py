"""Blender: the arena holds what a fresh build of the blended tensors would hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import EngineError
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.blender import Blender
from engines.onnxruntime_cpu.layout import Layout, allocate_aligned, find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from tests.engines.conftest import NAMES, Case
from tests.support.handmade_graphs import HAND

FOLDED = (
    "conv_bn", "transposed_bn", "bn_first", "bn_after_grouped_conv", "bn_after_depthwise_conv", "bn_after_bn", "shared_bn",
    "prelu_wild_slopes", "mul_after_conv",
)  # fmt: skip


@pytest.fixture(params=[*NAMES, *FOLDED])
def made(request: pytest.FixtureRequest, pico_case: Callable[[str], Case]) -> tuple[Case, Layout, Recipes, Blender]:
    case = HAND[request.param]() if request.param in HAND else pico_case(request.param)
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    return case, layout, recipes, Blender(layout, recipes, case.members)


def fresh(layout: Layout, recipes: Recipes, tensors: dict[str, NDArray[np.float64]]) -> NDArray[np.float32]:
    out = allocate_aligned((layout.size,))
    layout.arrange_weights(recipes.compute_values(tensors), out)
    return out


def test_a_blend_is_a_fresh_build_of_the_blended_tensors(made: tuple[Case, Layout, Recipes, Blender]) -> None:
    """To float32's roundings: n + 1 in the blend, one each in the scale and in the scaled weight."""
    case, layout, recipes, blender = made
    got = allocate_aligned((layout.size,))
    for shares in ([0.5, 0.2, 0.3], [0.0, 0.35, 0.65], [0.4, 0.0, 0.6]):
        blender.blend(np.array(shares), got)
        expected = fresh(layout, recipes, blend_float64(case.members, np.array(shares)))
        terms = sum(
            share * np.abs(fresh(layout, recipes, blend_float64([member], np.ones(1))))
            for share, member in zip(shares, case.members, strict=True)
        )
        scale = np.maximum(np.abs(terms), np.abs(expected)) + 1e-3 * np.abs(expected).max()
        assert (np.abs(got - expected) <= 16 * 2.0**-24 * scale).all()


def test_one_hot_is_the_member_bit_for_bit(made: tuple[Case, Layout, Recipes, Blender]) -> None:
    case, layout, recipes, blender = made
    got = allocate_aligned((layout.size,))
    for index, member in enumerate(case.members):
        blender.blend(np.eye(3)[index], got)
        assert got.tobytes() == fresh(layout, recipes, dict(member)).tobytes()


def test_there_and_back(made: tuple[Case, Layout, Recipes, Blender]) -> None:
    _, layout, _, blender = made
    first, out = allocate_aligned((layout.size,)), allocate_aligned((layout.size,))
    a, b = np.array([0.1, 0.7, 0.2]), np.array([0.6, 0.0, 0.4])
    blender.blend(a, first)
    for shares in (a, b, a):
        blender.blend(shares, out)
    assert out.tobytes() == first.tobytes()


def test_no_drift_after_ten_thousand_changes() -> None:
    """Folds too: they are computed from the statistics and not from the last fold."""
    case = HAND["conv_bn"]()
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    blender = Blender(layout, recipes, case.members)
    original = blender.member_rows.tobytes()
    out, first = allocate_aligned((layout.size,)), allocate_aligned((layout.size,))
    blender.blend(np.array([0.3, 0.3, 0.4]), first)
    for shares in np.random.default_rng(0).dirichlet(np.ones(3), 10_000):
        blender.blend(shares, out)
    blender.blend(np.array([0.3, 0.3, 0.4]), out)
    assert out.tobytes() == first.tobytes()
    assert blender.member_rows.tobytes() == original
    assert not blender.member_rows.flags.writeable


@pytest.mark.parametrize("name", ["conv_bn", "bn_first", "transposed_bn"])
def test_a_variance_that_is_not_positive_is_refused(name: str) -> None:
    case = HAND[name]()
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    with pytest.raises(EngineError, match="variance"):
        Blender(layout, recipes, case.members).blend(np.array([9.0, -8.0, 0.0]), allocate_aligned((layout.size,)))


def test_members_of_other_precisions_are_rounded_once() -> None:
    case = HAND["conv_bn"]()
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    halves = [{name: tensor.astype(np.float16) for name, tensor in member.items()} for member in case.members]
    wide = [{name: tensor.astype(np.float64) for name, tensor in member.items()} for member in halves]
    out, expected = allocate_aligned((layout.size,)), allocate_aligned((layout.size,))
    shares = np.array([0.2, 0.3, 0.5])
    Blender(layout, recipes, halves).blend(shares, out)
    Blender(layout, recipes, wide).blend(shares, expected)
    assert out.tobytes() == expected.tobytes()

"""Channel scales multiply each weight by the scale of its output channel, whatever layout ONNX Runtime chose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.channel_scale import BlockedChannelScale, ScatteredChannelScale, make_channel_scales
from engines.onnxruntime_cpu.layout import Layout, find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from tests.engines.conftest import Case
from tests.support.handmade_graphs import HAND


def scale_each_weight(layout: Layout, recipes: Recipes, scale: np.ndarray) -> np.ndarray:
    """What the scales have to do to a buffer of ones, weight by weight."""
    values, column = {name: np.ones(recipe.shape, np.float32) for name, recipe in recipes.linear.items()}, 0
    for fold in recipes.folds:
        channels = recipes.linear[fold.weight].shape[fold.axis]
        along = [1] * len(recipes.linear[fold.weight].shape)
        along[fold.axis] = channels
        values[fold.weight] = values[fold.weight] * scale[column : column + channels].reshape(along)
        column += channels
    out = np.zeros(layout.size, np.float32)
    layout.arrange_weights(values, out)
    return out


@pytest.mark.parametrize("name", ["dncnn_bn", "conv_bn", "transposed_bn", "bn_after_grouped_conv", "bn_first"])
def test_each_weight_gets_the_scale_of_its_channel(name: str, pico_case: Callable[[str], Case]) -> None:
    case = HAND[name]() if name in HAND else pico_case(name)
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    channels = sum(recipes.linear[fold.weight].shape[fold.axis] for fold in recipes.folds)
    scale = np.random.default_rng(0).uniform(0.5, 2.0, channels).astype(np.float32)
    out = np.zeros(layout.size, np.float32)
    layout.arrange_weights({key: np.ones(recipe.shape, np.float32) for key, recipe in recipes.linear.items()}, out)
    for channel_scale in make_channel_scales(recipes, layout):
        channel_scale.multiply(scale, out)
    np.testing.assert_array_equal(out, scale_each_weight(layout, recipes, scale))


@pytest.mark.parametrize("inner", [1, 8, 16])
def test_a_blocked_scale_does_what_a_scattered_one_does(inner: int) -> None:
    """Three blocks of (depth, inner): the runs are longer than the channels that lie side by side."""
    depth, columns = 6, np.arange(3 * inner)[::-1].copy()
    weights = np.random.default_rng(1).random(3 * depth * inner + 5, np.float32)
    scale = np.random.default_rng(2).random(3 * inner, np.float32)
    blocked, scattered = weights.copy(), weights.copy()
    BlockedChannelScale(5, weights.size, columns, inner).multiply(scale, blocked)
    channel = np.broadcast_to(columns.reshape(3, 1, inner), (3, depth, inner)).reshape(-1)
    ScatteredChannelScale(np.arange(5, weights.size), channel).multiply(scale, scattered)
    np.testing.assert_array_equal(blocked, scattered)

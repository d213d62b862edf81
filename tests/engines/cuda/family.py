"""Family: members, recipes and a fake for a lowered graph, small and made from a seed, for the tests of device memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engines.lowering.gpu import LoweredWeight
from engines.lowering.recipes import BatchNormFold, LinearRecipe, Recipes

Tensors = dict[str, NDArray[Any]]

SHAPES = {
    "first.weight": (16, 3, 3, 3), "first.bias": (16,), "conv.weight": (20, 16, 3, 3), "conv.bias": (20,), "slope": (1,),
    "up.weight": (20, 12, 4, 4), "up.bias": (12,), "deep.weight": (12, 1, 3, 3), "last.weight": (3, 12, 1, 1),
}  # fmt: skip
"""Rows of 144, 27, 9, 16 and 12 numbers: more, fewer and not a multiple of what a thread takes at once."""

NORMS = {"norm1": 20, "norm2": 12, "norm3": 12}


@dataclass(frozen=True)
class Lowered:
    """The two things that a layout wants of a lowered graph."""

    recipes: Recipes
    weights: tuple[LoweredWeight, ...]


def recipes(folds: bool = True) -> Recipes:
    """Linear weights in each way that there is, and BatchNorms behind Conv (axis 0), ConvTranspose (axis 1) and a depthwise one."""
    linear = {name: LinearRecipe(name, shape) for name, shape in SHAPES.items()}
    linear["slope"] = LinearRecipe("slope", (16, 1, 1))
    if not folds:
        return Recipes(linear)
    made = [("norm1", "conv.weight", 0, "conv.bias"), ("norm2", "up.weight", 1, "up.bias"), ("norm3", "deep.weight", 0, None)]
    for norm, _, _, bias in made:
        linear.pop(bias, None) if bias else None
        linear[f"{norm}@shift"] = LinearRecipe(None, (NORMS[norm],))
    return Recipes(
        linear,
        [
            BatchNormFold(
                weight, axis, f"{norm}@shift", f"{norm}.weight", f"{norm}.bias", f"{norm}.mean", f"{norm}.var", 1e-5, bias
            )
            for norm, weight, axis, bias in made
        ],
    )


def lowered(dtype: DTypeLike = np.float32, folds: bool = True) -> Lowered:
    made = recipes(folds)
    return Lowered(made, tuple(LoweredWeight(name, recipe.shape, np.dtype(dtype)) for name, recipe in made.linear.items()))


def members(count: int, seed: int = 0, dtype: DTypeLike = np.float32) -> list[Tensors]:
    """Members with weights of about 1 and variances from 0.1 to 2."""
    random = np.random.default_rng(seed)

    def one() -> Tensors:
        tensors = {name: random.standard_normal(shape) for name, shape in SHAPES.items()}
        for norm, channels in NORMS.items():
            for part in ("weight", "bias", "mean"):
                tensors[f"{norm}.{part}"] = random.standard_normal(channels)
            tensors[f"{norm}.var"] = random.uniform(0.1, 2.0, channels)
        return {name: tensor.astype(dtype) for name, tensor in tensors.items()}

    return [one() for _ in range(count)]


def shares(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Random shares without a zero, with the sum 1."""
    chosen = np.random.default_rng(seed).uniform(0.1, 1.0, count)
    return chosen / chosen.sum()


def numbers(weights: tuple[LoweredWeight, ...]) -> int:
    return sum(prod(weight.shape) for weight in weights)

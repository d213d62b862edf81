"""Recipes: how each weight of the lowered graph is made from the family's tensors.

Two kinds. A `LinearRecipe` weight is factor * tensor + offset, so it may be computed once per member and then blended as it
stands (the offset too, because shares sum to 1). A `BatchNormFold` is not linear: BatchNorm's gamma / sqrt(var + eps) must be
computed from the *blended* statistics at every change of alpha (promise 2), and then scales rows that were blended before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import BatchNormTable


@dataclass(frozen=True)
class LinearRecipe:
    """factor * tensors[source] + offset, reshaped (and broadcast, for a single PReLU slope) to `shape`.

    source None stands for zeros, so that the offset alone remains.
    permutation  of the source's axes, before it is reshaped; None where they stay.
    step         above 1: the weight or bias of a convolution that computes step x step output pixels at once; each kernel
                 is copied to as many places of a larger one, output by output (lowering/narrow_output.py).
    """

    source: str | None
    shape: tuple[int, ...]
    factor: float = 1.0
    offset: float = 0.0
    step: int = 1
    permutation: tuple[int, ...] | None = None

    def compute_value(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """float32 `shape`, contiguous; computed in float64 and rounded once, a plain copy where there is nothing to compute."""
        if self.source is None:
            return np.full(self.shape, self.offset, np.float32)
        tensor = tensors[self.source]
        if self.permutation is not None:
            tensor = tensor.transpose(self.permutation)
        if self.factor != 1.0 or self.offset != 0.0:
            tensor = tensor.astype(np.float64) * self.factor + self.offset
        if self.step > 1:
            return _shift_kernels(np.asarray(tensor, np.float32), self.step)
        if tensor.size == 1:
            tensor = np.broadcast_to(tensor.reshape(()), self.shape)
        return np.ascontiguousarray(tensor, np.float32).reshape(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Describes the recipe for the identity of a plan. The keys are fixed; another key makes every plan another one."""
        return {
            "source": self.source,
            "shape": list(self.shape),
            "factor": self.factor,
            "offset": self.offset,
            "step": self.step,
            "permutation": None if self.permutation is None else list(self.permutation),
        }


def _shift_kernels(tensor: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """(O, I, H, W) -> (O * step^2, I, H + step - 1, W + step - 1), the kernel moved by each (row, column) of a step; (O,) repeated."""
    if tensor.ndim == 1:
        return np.repeat(tensor, step * step)
    outputs, inputs, height, width = tensor.shape
    larger = np.zeros((outputs, step, step, inputs, height + step - 1, width + step - 1), np.float32)
    for row in range(step):
        for column in range(step):
            larger[:, row, column, :, row : row + height, column : column + width] = tensor
    return larger.reshape(-1, *larger.shape[3:])


@dataclass(frozen=True)
class BatchNormFold:
    """One BatchNorm folded into the convolution before it: W *= s per output channel, b = s * bias + beta - s * mean.

    weight, bias         lowered weights that it scales and writes; axis is the output channel's axis in `weight`, and `bias`
                         has one number per channel, in whatever shape its recipe says.
    gamma ... variance   the family's tensors, (C,) each; gamma and beta None where the layer has none.
    convolution_bias     the convolution's own bias, or None.
    """

    weight: str
    axis: int
    bias: str
    gamma: str | None
    beta: str | None
    mean: str
    variance: str
    epsilon: float
    convolution_bias: str | None

    @property
    def sources(self) -> tuple[str, ...]:
        """The family's tensors that `statistics` reads."""
        named = (self.gamma, self.beta, self.mean, self.variance, self.convolution_bias)
        return tuple(name for name in named if name is not None)

    def stack_statistics(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """What it needs of one member, linear in the tensors: float64 (5, C), variance + eps, gamma, beta, mean, bias."""
        variance = tensors[self.variance].astype(np.float64) + self.epsilon
        others = [(self.gamma, 1.0), (self.beta, 0.0), (self.mean, 0.0), (self.convolution_bias, 0.0)]
        rows = [np.full(variance.shape, empty) if name is None else tensors[name] for name, empty in others]
        return np.stack([variance, *rows]).astype(np.float64)

    def to_json(self) -> dict[str, Any]:
        """Describes the fold for the identity of a plan, under fixed keys as in `LinearRecipe.to_json`."""
        return {
            "weight": self.weight,
            "axis": self.axis,
            "bias": self.bias,
            "gamma": self.gamma,
            "beta": self.beta,
            "mean": self.mean,
            "variance": self.variance,
            "epsilon": self.epsilon,
            "convolution_bias": self.convolution_bias,
        }


def select_statistics_tensors(
    recipes: Recipes, members: Sequence[Mapping[str, NDArray[Any]]], recalibration: BatchNormTable | None
) -> Sequence[Mapping[str, NDArray[Any]]]:
    """What BatchNorms are blended from, folded or raw: the members, or what the family has at each knot of re-estimated statistics."""
    if recalibration is None:
        return members
    names = [name for fold in recipes.folds for name in fold.sources]
    read = {recipe.source for recipe in recipes.linear.values()}
    names += [name for name in recalibration.statistics if name in read]
    return recalibration.tensors_at_points(members, dict.fromkeys(names))


def compute_scale_and_shift(statistics: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of blended statistics (5, C): scale = gamma / sqrt(var + eps), shift = beta + scale * (bias - mean); float64 (C,) each.

    Not finite where a variance is not positive.
    """
    variance, gamma, beta, mean, bias = statistics
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = gamma / np.sqrt(variance)
        return scale, beta + scale * (bias - mean)


@dataclass
class Recipes:
    """Everything that the lowered graph's weights are made of: Linear weights by name, and the Folds that follow them."""

    linear: dict[str, LinearRecipe] = field(default_factory=dict)
    folds: list[BatchNormFold] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Describes all recipes for the identity of a plan, in their order, which is that of a layout's weights."""
        return {
            "linear": [[name, recipe.to_json()] for name, recipe in self.linear.items()],
            "folds": [fold.to_json() for fold in self.folds],
        }

    def compute_values(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Every lowered weight for one set of the family's tensors, folds applied: what a fresh build would hold."""
        weights = {name: recipe.compute_value(tensors) for name, recipe in self.linear.items()}
        for fold in self.folds:
            scale, shift = compute_scale_and_shift(fold.stack_statistics(tensors))
            weight = weights[fold.weight]
            along = [1] * weight.ndim
            along[fold.axis] = -1
            weights[fold.weight] = weight * scale.astype(np.float32).reshape(along)
            weights[fold.bias] = shift.astype(np.float32).reshape(weights[fold.bias].shape)
        return weights

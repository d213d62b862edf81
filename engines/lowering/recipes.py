"""How each weight of a lowered graph is made from the family's tensors.

There are two kinds. A `LinearRecipe` weight is factor * tensor + offset, so it may be computed once per member and then blended
as it stands (the offset too, because shares sum to 1). A `BatchNormFold` is not linear: BatchNorm's gamma / sqrt(var + eps)
must be computed from the *blended* statistics at every change of alpha (promise 2), and then scales rows that were blended
before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.calibration_table import CalibrationTable


@dataclass(frozen=True)
class LinearRecipe:
    """A weight that is factor * tensors[source] + offset.

    Attributes:
        source: Name of the family's tensor; None for zeros, so that the offset alone remains.
        shape: Shape to which it is reshaped (and broadcast, for a single PReLU slope).
        factor: Factor.
        offset: Offset.
        step: Above 1 for the weight or bias of a convolution that computes step x step output pixels at once; each kernel is
            copied to as many places of a larger one, output by output (onnxruntime_cpu/lowering/narrow_output.py).
        permutation: Permutation of the source's axes, before it is reshaped; None where they stay.
        before_upsample: True for the weight or bias of a 3 x 3 convolution that runs before a nearest-neighbor enlargement by 2
            instead of behind it: sums of taps, a 2 x 2 kernel for each of the four pixels
            (onnxruntime_cpu/lowering/nearest_upsample.py).
    """

    source: str | None
    shape: tuple[int, ...]
    factor: float = 1.0
    offset: float = 0.0
    step: int = 1
    permutation: tuple[int, ...] | None = None
    before_upsample: bool = False

    def compute_value(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Computes the weight in float64 and rounds once; a plain copy where there is nothing to compute.

        Args:
            tensors: The family's tensors by name.

        Returns:
            float32 of `shape`, contiguous; it may share memory with the source.
        """
        if self.source is None:
            return np.full(self.shape, self.offset, np.float32)
        tensor = tensors[self.source]
        if self.permutation is not None:
            tensor = tensor.transpose(self.permutation)
        if self.factor != 1.0 or self.offset != 0.0:
            tensor = tensor.astype(np.float64) * self.factor + self.offset
        if self.before_upsample:
            tensor = _sum_taps(tensor.astype(np.float64))
        if self.step > 1:
            return _shift_kernels(np.asarray(tensor, np.float32), self.step)
        if tensor.size == 1:
            tensor = np.broadcast_to(tensor.reshape(()), self.shape)
        return np.ascontiguousarray(tensor, np.float32).reshape(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Describes the recipe for the identity of a plan. The keys are fixed; another key makes every plan another one.

        Hence a key that only some recipes need is written for these alone.
        """
        description = {
            "source": self.source,
            "shape": list(self.shape),
            "factor": self.factor,
            "offset": self.offset,
            "step": self.step,
            "permutation": None if self.permutation is None else list(self.permutation),
        }
        return description | ({"before_upsample": True} if self.before_upsample else {})


UPSAMPLE_FACTOR = 2
"""Of the enlargement that a convolution moves across: `LinearRecipe.before_upsample`."""


def _sum_taps(tensor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums the taps that meet one pixel before an enlargement by 2: (O, I, 3, 3) to (4 * O, I, 2, 2); repeats (O,).

    The outputs are in the order of DepthToSpace's mode DCR. Of two output rows, the first has its middle in the lower half of an
    enlarged pixel, so that its taps 0 and 1 meet one pixel; of the second, taps 1 and 2 do. So it is with columns.
    """
    if tensor.ndim == 1:
        return np.tile(tensor, UPSAMPLE_FACTOR**2)
    first_taps = ((0, 2), (0, 1))
    rows = [np.add.reduceat(tensor, taps, axis=2) for taps in first_taps]
    return np.concatenate([np.add.reduceat(row, taps, axis=3) for row in rows for taps in first_taps])


def _shift_kernels(tensor: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Moves a kernel by each pixel of a step: (O, I, H, W) to (O * step^2, I, H + step - 1, W + step - 1); repeats (O,)."""
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

    Attributes:
        weight: Lowered weight that it scales.
        axis: Axis of the output channels in `weight`.
        bias: Lowered weight that it writes: one number per channel, in whatever shape its recipe says.
        gamma: Name of the family's tensor (C,), or None where the layer has none.
        beta: As `gamma`.
        mean: Name of the family's tensor (C,).
        variance: Name of the family's tensor (C,).
        epsilon: What is added to the variance.
        convolution_bias: Name of the convolution's own bias (C,), or None.
        factor: Constant by which the layer's output was multiplied; it is in the recipe of `weight`, too.
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
    factor: float = 1.0

    @property
    def sources(self) -> tuple[str, ...]:
        """The family's tensors that `stack_statistics` reads."""
        names = (self.gamma, self.beta, self.mean, self.variance, self.convolution_bias)
        return tuple(name for name in names if name is not None)

    def stack_statistics(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Stacks what the fold needs of one member: float64 (5, C), variance + eps, gamma, beta, mean, bias; linear in them.

        The last three are of the layer's output, so that they are multiplied by `factor`.
        """
        variance = tensors[self.variance].astype(np.float64) + self.epsilon
        others = [(self.gamma, 1.0), (self.beta, 0.0), (self.mean, 0.0), (self.convolution_bias, 0.0)]
        rows = [np.full(variance.shape, default) if name is None else tensors[name] for name, default in others]
        stacked = np.stack([variance, *rows]).astype(np.float64)
        stacked[2:] *= self.factor
        return stacked

    def to_json(self) -> dict[str, Any]:
        """Describes the fold for the identity of a plan, under fixed keys as in `LinearRecipe.to_json`."""
        description = {
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
        return description | ({"factor": self.factor} if self.factor != 1.0 else {})


def select_statistics_tensors(
    recipes: Recipes, members: Sequence[Mapping[str, NDArray[Any]]], calibration: CalibrationTable | None
) -> Sequence[Mapping[str, NDArray[Any]]]:
    """Selects what BatchNorms are blended from, folded or raw.

    Args:
        recipes: How the weights are made.
        members: Each member's weights by name.
        calibration: The calibration table, or None.

    Returns:
        The members, or the tensors at each calibration point.
    """
    if calibration is None:
        return members
    names = [name for fold in recipes.folds for name in fold.sources]
    read = {recipe.source for recipe in recipes.linear.values()}
    names += [name for name in calibration.statistics if name in read]
    return calibration.tensors_at_points(members, dict.fromkeys(names))


def compute_scale_and_shift(statistics: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes scale = gamma / sqrt(var + eps) and shift = beta + scale * (bias - mean).

    Args:
        statistics: Blended statistics, float64 (5, C), as `BatchNormFold.stack_statistics` orders them.

    Returns:
        Scale and shift, float64 (C,) each; not finite where a variance is not positive.
    """
    variance, gamma, beta, mean, bias = statistics
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = gamma / np.sqrt(variance)
        return scale, beta + scale * (bias - mean)


@dataclass
class Recipes:
    """Everything that the lowered graph's weights are made of.

    Attributes:
        linear: Recipe of each weight by name, in the order of a layout's weights.
        folds: Folds that follow, in the order of the graph.
    """

    linear: dict[str, LinearRecipe] = field(default_factory=dict)
    folds: list[BatchNormFold] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Describes all recipes for the identity of a plan, in their order, which is that of a layout's weights."""
        return {
            "linear": [[name, recipe.to_json()] for name, recipe in self.linear.items()],
            "folds": [fold.to_json() for fold in self.folds],
        }

    def compute_values(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Computes every lowered weight for one set of the family's tensors, folds applied: what a fresh build would hold."""
        weights = {name: recipe.compute_value(tensors) for name, recipe in self.linear.items()}
        for fold in self.folds:
            scale, shift = compute_scale_and_shift(fold.stack_statistics(tensors))
            weight = weights[fold.weight]
            along = [1] * weight.ndim
            along[fold.axis] = -1
            weights[fold.weight] = weight * scale.astype(np.float32).reshape(along)
            weights[fold.bias] = shift.astype(np.float32).reshape(weights[fold.bias].shape)
        return weights

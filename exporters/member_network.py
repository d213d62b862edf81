"""Member network: a family's network in PyTorch, at any weights, with what goes into each BatchNorm measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from exporters.architectures.architecture import Architecture


class MemberNetwork:
    """An architecture whose weights are given with every call; nothing is kept between two."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture

    @torch.no_grad()
    def infer(self, tensors: Mapping[str, NDArray[Any]], x: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (N, C, H, W) -> float32 (N, C', H', W')."""
        output: NDArray[np.float32] = self._architecture.build(tensors)(torch.from_numpy(x)).numpy()
        return output

    @torch.no_grad()
    def measure_batchnorm_inputs(
        self, tensors: Mapping[str, NDArray[Any]], inputs: Sequence[NDArray[np.float32]]
    ) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Mean and variance, float64 (C,) each, of what goes into each BatchNorm, over all inputs alike and all places."""
        net = self._architecture.build(tensors)
        seen: dict[str, list[NDArray[np.float64]]] = {}
        for name, module in net.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.register_forward_pre_hook(_make_moments_hook(seen.setdefault(name, [])))
        if not seen:
            return {}
        for x in inputs:
            net(torch.from_numpy(x))
        return {name: (np.mean(found, axis=0)[0], _compute_variance(found)) for name, found in seen.items() if found}


def _make_moments_hook(moments: list[NDArray[np.float64]]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].transpose(0, 1).flatten(1).double()
        moments.append(torch.stack([rows.mean(dim=1), rows.square().mean(dim=1)]).numpy())

    return hook


def _compute_variance(moments: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    mean, square = np.mean(moments, axis=0)
    return np.asarray(np.maximum(square - mean**2, 0), np.float64)

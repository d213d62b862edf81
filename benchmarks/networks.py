"""The four networks of the benchmarks, at their published sizes, with random weights: speed does not depend on training.

Each is a family of two members that differ a little, so that blends stay as well-behaved as those of fine-tuned networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from exporters.architectures.compact import SRVGGNetCompact
from exporters.architectures.dncnn import DnCNN
from exporters.architectures.rrdbnet import RRDBNet
from exporters.architectures.transformer_net import TransformerNet

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Network:
    """A network: its title in tables, its constructor and the shape (N, C, H, W) of the benchmark's input."""

    title: str
    build: Callable[[], nn.Module]
    shape: tuple[int, int, int, int]


NETWORKS: Mapping[str, Network] = {
    "dncnn": Network("DnCNN-17, BatchNorm", DnCNN, (1, 3, 256, 256)),
    "compact": Network("Compact 64x16, x4", lambda: SRVGGNetCompact(width=64, depth=16), (1, 3, 128, 128)),
    "rrdb": Network("RRDBNet-23, x4", RRDBNet, (1, 3, 64, 64)),
    "transformer": Network("TransformerNet", TransformerNet, (1, 3, 256, 256)),
}


def family(name: str, members: int = 2, seed: int = 0) -> dict[str, State]:
    """Makes state dicts by member name, small steps away from one random ancestor; BatchNorm variances are positive."""
    torch.manual_seed(seed)
    ancestor = {key: value.numpy() for key, value in NETWORKS[name].build().state_dict().items()}
    rng = np.random.default_rng(seed)
    states = {}
    for number in range(members):
        state: State = {}
        for key, value in ancestor.items():
            if value.dtype.kind != "f":
                state[key] = value
                continue
            step = rng.standard_normal(value.shape).astype(np.float32) * (0.05 * float(value.std()) + 1e-3)
            state[key] = np.abs(value + step) if key.endswith("running_var") else value + step
        states[f"m{number}"] = state
    return states

"""Pico: each architecture in a small size, with seeded weights that give every tensor an effect.

BatchNorm statistics, PReLU slopes and biases are random too (a fresh BatchNorm would hide a swapped mean and variance).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from exporters.architectures.compact import SRVGGNetCompact
from exporters.architectures.cyclegan import ResnetGenerator
from exporters.architectures.dcgan import DCGANGenerator
from exporters.architectures.dncnn import DnCNN
from exporters.architectures.rrdbnet import ESRGAN_NAMING, RRDBNet, make_old_esrgan_naming
from exporters.architectures.srcnn import SRCNN
from exporters.architectures.transformer_net import TransformerNet


@dataclass(frozen=True)
class Pico:
    """architecture: the name that `find` must return; shapes: two example inputs, float32 NCHW."""

    architecture: str
    factory: Callable[[], nn.Module]
    shapes: tuple[tuple[int, int, int, int], ...] = ((1, 3, 24, 32), (1, 3, 36, 20))


GRAY = ((1, 1, 24, 32), (1, 1, 35, 21))
LATENT = ((1, 5, 1, 1), (3, 5, 1, 1))

PICO: dict[str, Pico] = {
    "srcnn_959": Pico("srcnn", lambda: SRCNN(3, (8, 6), (9, 5, 9))),
    "srcnn_919": Pico("srcnn", lambda: SRCNN(1, (8, 6), (9, 1, 9)), GRAY),
    "dncnn": Pico("dncnn", lambda: DnCNN(3, 8, 4, batch_norm=False)),
    "dncnn_bn": Pico("dncnn", lambda: DnCNN(3, 8, 5)),
    "dncnn_bn_kair": Pico("dncnn", lambda: DnCNN(1, 8, 4, inner_bias=True, eps=1e-4), GRAY),
    "dncnn_bn_port": Pico("dncnn", lambda: DnCNN(1, 8, 4, prefix="dncnn", biases=(False, False)), GRAY),
    "rrdbnet": Pico("rrdbnet", lambda: RRDBNet(3, 8, 2, 4)),
    "rrdbnet_x2": Pico("rrdbnet", lambda: RRDBNet(3, 8, 1, 4, unshuffle=2)),
    "rrdbnet_esrgan": Pico("rrdbnet", lambda: RRDBNet(3, 8, 1, 4, naming=ESRGAN_NAMING)),
    "rrdbnet_old": Pico("rrdbnet", lambda: RRDBNet(3, 8, 1, 4, naming=make_old_esrgan_naming(1, 2))),
    "compact": Pico("compact", lambda: SRVGGNetCompact(3, 8, 3, 4)),
    "compact_x2": Pico("compact", lambda: SRVGGNetCompact(3, 8, 2, 2)),
    "cyclegan": Pico("cyclegan", lambda: ResnetGenerator(3, 4, 2)),
    "cyclegan_bn": Pico("cyclegan", lambda: ResnetGenerator(3, 4, 2, batch_norm=True)),
    "transformer_net": Pico("transformer_net", lambda: TransformerNet(3, (4, 6, 8), 1)),
    "dcgan": Pico("dcgan", lambda: DCGANGenerator(5, (8, 6), 3), LATENT),
}


def pico_net(name: str, seed: int = 0) -> nn.Module:
    """Returns the network of that name in eval mode, every weight drawn from the seed."""
    net = PICO[name].factory().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        for part, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.is_floating_point():
                tensor.copy_(_drawn(module, part, tensor.shape, generator))
    return net


def _drawn(module: nn.Module, part: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    if part in ("bias", "running_mean"):
        return torch.randn(shape, generator=generator) * 0.1
    if part == "running_var":
        return uniform(0.5, 2.0)
    if isinstance(module, nn.PReLU):
        return uniform(0.05, 0.4)
    if len(shape) == 1:  # the scale of a BatchNorm or InstanceNorm
        return uniform(0.7, 1.4)
    inputs = shape[0] / module.stride[0] ** 2 if isinstance(module, nn.ConvTranspose2d) else shape[1]
    return torch.randn(shape, generator=generator) * math.sqrt(1.5 / (inputs * math.prod(shape[2:])))


def pico_state(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the state dict of `pico_net` as copied NumPy arrays, counters included."""
    return {key: value.numpy().copy() for key, value in pico_net(name, seed).state_dict().items()}


def pico_family(name: str, n: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Returns n similar state dicts: the seed's network, and copies with each float changed by about a tenth."""
    first = pico_state(name, seed)
    members = [first]
    for number in range(1, n):
        random = np.random.default_rng((seed, number))
        members.append({key: _near(key, array, random) for key, array in first.items()})
    return members


def _near(key: str, array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    if array.dtype.kind != "f":
        return array.copy()
    if key.endswith("running_var"):  # stays positive
        return (array * random.uniform(0.8, 1.25, array.shape)).astype(np.float32)
    spread = 0.1 * float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))
    return (array + spread * random.standard_normal(array.shape)).astype(np.float32)

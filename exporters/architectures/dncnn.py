"""DnCNN: a plain residual denoiser, with or without BatchNorm (Zhang et al., TIP 2017).

Keys follow the public checkpoints: `model.0.weight`, ... (KAIR) or `dncnn.0.weight`, ... (the common PyTorch port).
The layers' positions in the Sequential say where a BatchNorm stands, so every hyper-parameter is read off the keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DnCNN(nn.Module):
    """x (N, C, H, W) in [0, 1] -> x minus the predicted noise, same shape.

    depth counts convolutions; `batch_norm` puts one behind every inner convolution, which then has no bias.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        depth: int = 17,
        *,
        batch_norm: bool = True,
        inner_bias: bool = False,
        prefix: str = "model",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=inner_bias or not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(width, channels, 3, padding=1))
        self.prefix = prefix
        self.add_module(prefix, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        noise: Tensor = self.get_submodule(self.prefix)(x)
        return x - noise


def initialise(net: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """Kaiming-normal convolutions, zero biases; the last one a tenth, so that training starts near the identity."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            last = module
    with torch.no_grad():
        last.weight.mul_(0.1)
    return net

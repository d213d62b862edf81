"""The signature of a network that has none, measured by running it on small inputs."""

from __future__ import annotations

import torch
from torch import nn

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature

TRIED_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
MIN_SIDE_PX = 24
"""Enough for reflection padding by 4 after two halvings."""


def measure_signature(net: nn.Module) -> Signature:
    """Measures channels, scale and multiple of an image network in eval mode.

    Values of 0..1 are assumed, and the radius stays unknown.

    Raises:
        MismatchError: No channel count and no multiple up to 64 gives an image of a whole multiple of the size.
    """
    reason = "it has no convolution"
    first_convolutions = [module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)][:1]
    for channels in dict.fromkeys([*first_convolutions, 3, 1, 4]):
        for multiple in TRIED_MULTIPLES:
            try:
                scale, output_channels = _measure_scale(net, channels, multiple)
            except Exception as error:  # whatever an unknown network raises on a size it cannot take
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                continue
            return Signature(channels, output_channels, scale, multiple)
    raise MismatchError(
        "The network's signature could not be measured: on inputs of 1, 3 or 4 channels and sizes up to 64 it gave no "
        f"image of a whole multiple of the size ({reason}). Give the network or its factory an attribute 'signature'."
    )


def _measure_scale(net: nn.Module, channels: int, multiple: int) -> tuple[int, int]:
    """Runs three sizes, among them an odd and an even number of multiples per side; raises ValueError on a bad size."""
    least = max(MIN_SIDE_PX // multiple, 1) | 1
    results: set[tuple[int, int]] = set()
    for rows, columns in ((least, least + 1), (least + 1, least + 2), (least + 2, least)):
        height, width = rows * multiple, columns * multiple
        with torch.no_grad():
            y = net(torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0)))
        scale = y.shape[2] // height
        if y.ndim != 4 or scale < 1 or tuple(y.shape[2:]) != (height * scale, width * scale):
            raise ValueError(f"{height} x {width} became {tuple(y.shape)}")
        results.add((scale, int(y.shape[1])))
    if len(results) != 1:
        raise ValueError(f"the scale depends on the size: {sorted(results)}")
    return results.pop()

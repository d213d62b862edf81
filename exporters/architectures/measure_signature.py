"""Measure the signature of a network that carries none, by running it on small inputs."""

from __future__ import annotations

import torch
from torch import nn

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature

TRIED_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
MIN_SIDE_PX = 24  # pixels: enough for reflection padding by 4 after two halvings


def measure_signature(net: nn.Module) -> Signature:
    """Channels, scale and multiple of an image network in eval mode; values taken as 0..1, the radius as unknown.

    Raises MismatchError if no channel count and no multiple up to 64 gives a picture of a whole multiple of the size.
    """
    reason = "it has no convolution"
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    likely = [] if first is None else [first.in_channels]
    for channels in dict.fromkeys([*likely, 3, 1, 4]):
        for multiple in TRIED_MULTIPLES:
            try:
                scale, output_channels = _measure_scale(net, channels, multiple)
            except Exception as error:  # whatever a stranger's network raises on a size it cannot take
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                continue
            return Signature(channels, output_channels, scale, multiple)
    raise MismatchError(
        "The network's signature could not be measured: on inputs of 1, 3 or 4 channels and sizes up to 64 it gave no "
        f"picture of a whole multiple of the size ({reason}). Give the network or its factory an attribute 'signature'."
    )


def _measure_scale(net: nn.Module, channels: int, multiple: int) -> tuple[int, int]:
    """Runs three sizes, among them an odd and an even number of multiples each way; raises ValueError on a bad size."""
    least = max(MIN_SIDE_PX // multiple, 1) | 1
    found: set[tuple[int, int]] = set()
    for rows, columns in ((least, least + 1), (least + 1, least + 2), (least + 2, least)):
        height, width = rows * multiple, columns * multiple
        with torch.no_grad():
            y = net(torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0)))
        scale = y.shape[2] // height
        if y.ndim != 4 or scale < 1 or tuple(y.shape[2:]) != (height * scale, width * scale):
            raise ValueError(f"{height} x {width} became {tuple(y.shape)}")
        found.add((scale, int(y.shape[1])))
    if len(found) != 1:
        raise ValueError(f"the scale depends on the size: {sorted(found)}")
    return found.pop()

"""A run of a network of which nothing is known, to see what it gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dni_deploy.signature import Signature

TRIED_SIDES_PX = (64, 128, 256)
"""Heights to run the network at; widths are twice as much."""


def channels_to_try(net: nn.Module) -> list[int]:
    """Lists numbers of input channels, likely ones first.

    A network whose first convolution takes one channel may be one that works on the luma of RGB images: 3 is tried first.
    """
    first = [module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)][:1]
    return list(dict.fromkeys([3, 1, 4] if first == [1] else [*first, 3, 1, 4]))


def run_at_some_size(net: nn.Module) -> tuple[tuple[int, int], Any] | None:
    """Runs the network on random images until it takes one.

    Returns:
        Height and width of the image in pixels, and the network's output; None where it takes none that was tried.
    """
    signature = getattr(net, "signature", None)
    if isinstance(signature, Signature) and signature.kind == "latent":
        return None
    channels = [signature.input_channels] if isinstance(signature, Signature) else channels_to_try(net)
    for count in channels:
        for side in TRIED_SIDES_PX:
            try:
                with torch.no_grad():
                    output = net(torch.rand(1, count, side, 2 * side, generator=torch.Generator().manual_seed(0)))
            except Exception:  # whatever an unknown network raises on a size it cannot take
                continue
            return (side, 2 * side), output
    return None

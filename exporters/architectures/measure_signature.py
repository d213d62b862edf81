"""The signature of a network, or what is missing of it, measured by running it on small inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures.run_at_some_size import channels_to_try
from exporters.measure_function import measure_function

MAX_MINIMUM_PX = 512
"""The largest minimum side that is looked for: GFPGAN's, the largest that is known."""


def measure_signature(net: nn.Module) -> Signature:
    """Measures channels, scale and multiple of an image network in eval mode.

    Values of 0..1 are assumed, and the radius stays unknown.

    Raises:
        MismatchError: No channel count and no multiple up to 256 gives an image of a whole multiple of the size.
    """

    def run(x: NDArray[np.float32]) -> NDArray[Any]:
        with torch.no_grad():
            output: NDArray[Any] = net(torch.from_numpy(x)).numpy()
        return output

    try:
        return measure_function(run, channels_to_try(net))
    except MismatchError as error:
        raise MismatchError(f"{error} Give the network or its factory an attribute 'signature'.") from None


def raise_minimum(net: nn.Module, signature: Signature) -> Signature:
    """Raises the minimum of a signature to the smallest side at which the network runs.

    Networks that pad by reflection, pool or halve fail below some size, which no signature says in advance: Real-CUGAN needs 19
    pixels, and the ESA block of RLFN and RFDN 15.

    Returns:
        The signature, unchanged where the network runs at its minimum, or at no side up to MAX_MINIMUM_PX.
    """

    def runs(side: int) -> bool:
        try:
            with torch.no_grad():
                net(torch.rand(1, signature.input_channels, side, side, generator=torch.Generator().manual_seed(0)))
        except Exception:  # whatever a network raises on a size that it does not take
            return False
        return True

    fails, works = 0, signature.round_up_side(1)
    if signature.kind == "latent":
        return signature
    while not runs(works):
        fails, works = works, 2 * works
        if works > max(MAX_MINIMUM_PX, signature.multiple):
            return signature
    if not fails:
        return signature
    while works - fails > signature.multiple:
        middle = signature.round_up_side((fails + works) // 2)
        middle -= signature.multiple if middle == works else 0
        fails, works = (fails, middle) if runs(middle) else (middle, works)
    return replace(signature, minimum=works)

"""The signature of a network that has none, measured by running it on small inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.measure_function import measure_function


def measure_signature(net: nn.Module) -> Signature:
    """Measures channels, scale and multiple of an image network in eval mode.

    Values of 0..1 are assumed, and the radius stays unknown.

    Raises:
        MismatchError: No channel count and no multiple up to 64 gives an image of a whole multiple of the size.
    """

    def run(x: NDArray[np.float32]) -> NDArray[Any]:
        with torch.no_grad():
            output: NDArray[Any] = net(torch.from_numpy(x)).numpy()
        return output

    first_convolutions = [module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)][:1]
    try:
        return measure_function(run, [*first_convolutions, 3, 1, 4])
    except MismatchError as error:
        raise MismatchError(f"{error} Give the network or its factory an attribute 'signature'.") from None

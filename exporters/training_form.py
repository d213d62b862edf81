"""Re-parameterized convolutions in the form in which they were trained.

Such a layer computes one convolution, whose weights it puts together from several in every call (SPAN's Conv3XC assigns them to
`eval_conv.weight.data`, which ends the interpreter while PyTorch's exporter traces it). In training it computes the several
convolutions themselves: the same function, in which the weights that files hold, and that are blended, can be seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def use_training_form(net: nn.Module) -> Iterator[None]:
    """Lets the re-parameterized convolutions of a network in eval mode, and no other layer, compute as in training."""
    layers = [module for module in net.modules() if hasattr(module, "update_params") and hasattr(module, "eval_conv")]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer in layers:
            layer.training = False

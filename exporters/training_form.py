"""Layers whose form for inference cannot be exported, in the form in which they were trained.

A re-parameterized layer computes one convolution, whose weights it puts together from several in every call (SPAN's Conv3XC
assigns them to `eval_conv.weight.data`, which ends the interpreter while PyTorch's exporter traces it). In training it computes
the several convolutions themselves: the same function, in which the weights that files hold, and that are blended, can be seen.

A mixture of experts (SeemoRe's MoELayer) runs the experts that its router chooses by the image, which a graph cannot. In
training it runs all, those that are not chosen with a weight of 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

LAYER_NAMES = (("update_params", "eval_conv"), ("experts", "gate", "num_expert"))
"""By what such layers are known: re-parameterized convolutions, and mixtures of experts."""


@contextlib.contextmanager
def use_training_form(net: nn.Module) -> Iterator[None]:
    """Lets these layers of a network in eval mode, and no other, compute as in training."""
    layers = [module for module in net.modules() if any(all(hasattr(module, name) for name in names) for names in LAYER_NAMES)]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer in layers:
            layer.training = False

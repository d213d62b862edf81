"""DnCNN: a plain residual denoiser, with or without BatchNorm (Zhang et al., TIP 2017).

Keys follow the public checkpoints: `model.0.weight`, ... (KAIR) or `dncnn.0.weight`, ... (the common PyTorch ports).
The layers' positions in the Sequential say where a BatchNorm stands, so every hyperparameter follows from the keys,
except BatchNorm's eps. The biases show whose file it is, and with that the eps: KAIR, with a bias in front of every
BatchNorm, and the authors' port, with one in the first convolution only, use 1e-4; all others PyTorch's 1e-5.
Dilation does not show either: IRCNN's seven dilated convolutions look like a DnCNN of depth 7, so give IRCNN by --arch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures.architecture import Architecture, Shapes, find_layer_positions, require_shape


class DnCNN(nn.Module):
    """x (N, C, H, W) in [0, 1] -> x minus the predicted noise, same shape."""

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        depth: int = 17,
        *,
        batch_norm: bool = True,
        inner_bias: bool | None = None,
        prefix: str = "model",
        biases: tuple[bool, bool] = (True, True),
        eps: float = 1e-5,
    ) -> None:
        """Makes the layers.

        Args:
            channels: Of input and output.
            width: Channels inside.
            depth: Number of convolutions.
            batch_norm: Whether a BatchNorm follows every inner convolution.
            inner_bias: Whether inner convolutions have a bias; None: where no BatchNorm follows.
            prefix: Name of the Sequential.
            biases: Whether the first and the last convolution have a bias.
            eps: Of every BatchNorm.
        """
        super().__init__()
        inner_bias = not batch_norm if inner_bias is None else inner_bias
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=biases[0]), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=inner_bias))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width, eps=eps))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(width, channels, 3, padding=1, bias=biases[1]))
        self.prefix = prefix
        self.add_module(prefix, nn.Sequential(*layers))
        self.signature = Signature(channels, channels, radius=depth)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        noise: Tensor = self.get_submodule(self.prefix)(x)
        return x - noise


def initialize_weights(net: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """Initializes convolutions Kaiming-normal, biases to zero, and scales the last convolution by a tenth.

    So training starts near the identity.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            last = module
    with torch.no_grad():
        last.weight.mul_(0.1)
    return net


def infer_hyperparameters(shapes: Shapes) -> DnCNN:
    """Infers the network from names and shapes; raises MismatchError where none has them."""
    prefix = "dncnn" if "dncnn.0.weight" in shapes else "model"
    width, channels = require_shape(shapes, f"{prefix}.0.weight", 4)[:2]
    positions = find_layer_positions(shapes, prefix)
    batch_norm = f"{prefix}.3.running_var" in shapes
    step = 3 if batch_norm else 2
    inner, odd = divmod(positions[-1] - 2, step)
    if odd or not 1 <= inner <= len(positions):  # a gap: a damaged file must not ask for a network of any depth
        raise MismatchError(f"a last convolution at position {positions[-1]} is none of {2 + step}, {2 + 2 * step}, ...")
    biases = (f"{prefix}.0.bias" in shapes, f"{prefix}.{positions[-1]}.bias" in shapes)
    inner_bias = f"{prefix}.2.bias" in shapes
    eps = 1e-4 if batch_norm and (inner_bias or biases == (True, False)) else 1e-5
    return DnCNN(
        channels, width, inner + 2, batch_norm=batch_norm, inner_bias=inner_bias, prefix=prefix, biases=biases, eps=eps
    )


ARCHITECTURE = Architecture("dncnn", "DnCNN denoiser", infer_hyperparameters)

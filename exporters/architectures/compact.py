"""SRVGGNetCompact: the small super-resolution network of Real-ESRGAN (realesr-general-x4v3, -wdn-x4v3, animevideov3).

One Sequential `body`: convolution, activation, `depth` more pairs, a last convolution, then a pixel shuffle; the input
enlarged by nearest neighbor is added. PReLU slopes (one per channel) show in the file. ReLU and LeakyReLU have no
tensors and cannot be told apart, so such a file is refused rather than guessed at: give it with --arch package.module:factory.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures.architecture import Architecture, Shapes, find_layer_positions, require_shape


class SRVGGNetCompact(nn.Module):
    """x (N, C, H, W) in [0, 1] -> (N, C, scale * H, scale * W)."""

    def __init__(
        self, channels: int = 3, width: int = 64, depth: int = 32, scale: int = 4, *, activation: str = "prelu"
    ) -> None:
        """Makes the layers.

        Args:
            channels: Of input and output.
            width: Channels inside.
            depth: Number of convolutions between the first and the last.
            scale: Of the output.
            activation: "prelu", "relu" or "leakyrelu" (slope 0.1).
        """
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), _make_activation(activation, width)]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, padding=1), _make_activation(activation, width)]
        layers.append(nn.Conv2d(width, channels * scale**2, 3, padding=1))
        self.scale = scale
        self.body = nn.Sequential(*layers)
        self.signature = Signature(channels, channels, scale, radius=depth + 2)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        details = functional.pixel_shuffle(self.body(x), self.scale)
        return details + functional.interpolate(x, scale_factor=float(self.scale), mode="nearest")


def _make_activation(name: str, width: int) -> nn.Module:
    return {"prelu": nn.PReLU(width), "relu": nn.ReLU(), "leakyrelu": nn.LeakyReLU(0.1)}[name]


def infer_hyperparameters(shapes: Shapes) -> SRVGGNetCompact:
    """Infers the network from names and shapes; raises MismatchError where none has them."""
    width, channels = require_shape(shapes, "body.0.weight", 4)[:2]
    layers = find_layer_positions(shapes, "body")
    if "body.1.weight" not in shapes:
        raise MismatchError("'body.1.weight', the slopes of a PReLU, is missing, and other activations cannot be told apart")
    outputs = require_shape(shapes, f"body.{layers[-1]}.weight", 4)[0]
    scale = math.isqrt(outputs // channels)
    if layers[-1] % 2 or layers[-1] >= 2 * len(layers) or channels * scale**2 != outputs or scale < 1:
        raise MismatchError(f"a last convolution at position {layers[-1]} with {outputs} outputs makes no pixel shuffle")
    return SRVGGNetCompact(channels, width, layers[-1] // 2 - 1, scale)


ARCHITECTURE = Architecture("compact", "SRVGGNetCompact of Real-ESRGAN", infer_hyperparameters)

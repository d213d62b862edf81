"""DCGAN's generator: an image from noise (Radford et al., ICLR 2016), with the keys of the PyTorch examples.

One Sequential `main`: transposed convolution, BatchNorm, ReLU; the last convolution is followed by tanh. The first makes
4 x 4 pixels, each further one doubles them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures.architecture import Architecture, Shapes, find_layer_positions, require_shape


class DCGANGenerator(nn.Module):
    """z (N, latent, 1, 1) -> (N, C, S, S) in [-1, 1] with S = 4 * 2 ** len(widths)."""

    def __init__(self, latent: int = 100, widths: Sequence[int] = (512, 256, 128, 64), channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent, widths[0], 4, bias=False)]
        for inward, outward in zip(widths, [*widths[1:], channels], strict=True):
            up = nn.ConvTranspose2d(inward, outward, 4, stride=2, padding=1, bias=False)
            layers += [nn.BatchNorm2d(inward), nn.ReLU(), up]
        layers.append(nn.Tanh())
        self.main = nn.Sequential(*layers)
        size = 4 * 2 ** len(widths)
        self.signature = Signature(latent, channels, scale=size, low=-1.0, high=1.0, kind="latent")

    def forward(self, z: Tensor) -> Tensor:
        """Computes the images for latent vectors, float32 (N, latent, 1, 1)."""
        image: Tensor = self.main(z)
        return image


def infer_hyperparameters(shapes: Shapes) -> DCGANGenerator:
    """Infers the network from names and shapes; raises MismatchError where none has them."""
    latent = require_shape(shapes, "main.0.weight", 4)[0]
    last = find_layer_positions(shapes, "main")[-1]
    if last % 3 or last < 3:
        raise MismatchError(f"a last convolution at position {last} is none of 3, 6, 9, ...")
    outputs = [require_shape(shapes, f"main.{position}.weight", 4)[1] for position in range(0, last + 1, 3)]
    return DCGANGenerator(latent, outputs[:-1], outputs[-1])


ARCHITECTURE = Architecture("dcgan", "DCGAN generator", infer_hyperparameters)

"""CycleGAN's ResNet generator, with InstanceNorm or BatchNorm (Zhu et al., ICCV 2017).

One Sequential `model`: a 7 x 7 convolution, two that halve the size, residual blocks from position 10 on, two transposed
convolutions, a 7 x 7 convolution, tanh. InstanceNorm has no tensors here, and then the convolutions have biases; files
saved by PyTorch before 0.4 hold running statistics for it that nothing reads. Dropout inside the blocks (as in pix2pix)
does nothing at inference but moves the second convolution from position 5 to 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dni_deploy.signature import Signature
from exporters.architectures import receptive_field
from exporters.architectures.architecture import Architecture, Shapes, count_indexed, require_shape


class ResnetBlock(nn.Module):
    """Two padded convolutions whose output is added to the input."""

    def __init__(self, width: int, batch_norm: bool, dropout: bool) -> None:
        super().__init__()
        layers = [nn.ReflectionPad2d(1), *_norm_layers(nn.Conv2d(width, width, 3, bias=not batch_norm), batch_norm), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(0.5))
        layers += [nn.ReflectionPad2d(1), *_norm_layers(nn.Conv2d(width, width, 3, bias=not batch_norm), batch_norm)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        changed: Tensor = self.conv_block(x)
        return x + changed


class ResnetGenerator(nn.Module):
    """x (N, C, H, W) in [-1, 1] -> (N, C', H, W) in [-1, 1]; H and W multiples of 4."""

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        blocks: int = 9,
        *,
        batch_norm: bool = False,
        dropout: bool = False,
        output_channels: int | None = None,
    ) -> None:
        super().__init__()
        outputs = channels if output_channels is None else output_channels
        bias = not batch_norm
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            *_norm_layers(nn.Conv2d(channels, width, 7, bias=bias), batch_norm),
            nn.ReLU(),
        ]
        for factor in (1, 2):
            down = nn.Conv2d(width * factor, width * factor * 2, 3, stride=2, padding=1, bias=bias)
            layers += [*_norm_layers(down, batch_norm), nn.ReLU()]
        layers += [ResnetBlock(width * 4, batch_norm, dropout) for _ in range(blocks)]
        for factor in (4, 2):
            up = nn.ConvTranspose2d(width * factor, width * factor // 2, 3, 2, padding=1, output_padding=1, bias=bias)
            layers += [*_norm_layers(up, batch_norm), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, outputs, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        radius = _compute_radius(blocks) if batch_norm else None
        self.signature = Signature(channels, outputs, multiple=4, low=-1.0, high=1.0, radius=radius, minimum=8)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        y: Tensor = self.model(x)
        return y


def _norm_layers(layer: nn.Conv2d | nn.ConvTranspose2d, batch_norm: bool) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels) if batch_norm else nn.InstanceNorm2d(layer.out_channels)]


def _compute_radius(blocks: int) -> int:
    down, up = [receptive_field.conv_step(3, 2)] * 2, [receptive_field.transposed_conv_step(3, 2, 1)] * 2
    steps = [
        receptive_field.conv_step(7),
        *down,
        *[receptive_field.conv_step(3)] * (2 * blocks),
        *up,
        receptive_field.conv_step(7),
    ]
    return receptive_field.compute_radius(steps, multiple=4)


def canonicalize_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the running statistics of an InstanceNorm: those without a weight beside them."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return {
        key: value
        for key, value in tensors.items()
        if not (key.startswith("model.") and key.endswith(statistics) and f"{key.rpartition('.')[0]}.weight" not in tensors)
    }


def infer_hyperparameters(shapes: Shapes) -> ResnetGenerator:
    """Infers the network from names and shapes; raises MismatchError where none has them."""
    width, channels = require_shape(shapes, "model.1.weight", 4)[:2]
    require_shape(shapes, "model.10.conv_block.1.weight", 4)
    blocks = count_indexed(shapes, "model.{}.conv_block.1.weight", first=10)
    outputs = require_shape(shapes, f"model.{10 + blocks + 7}.weight", 4)[0]
    return ResnetGenerator(
        channels,
        width,
        blocks,
        batch_norm="model.2.running_var" in shapes,
        dropout="model.10.conv_block.6.weight" in shapes and "model.10.conv_block.5.weight" not in shapes,
        output_channels=outputs,
    )


ARCHITECTURE = Architecture("cyclegan", "ResNet generator of CycleGAN", infer_hyperparameters, canonicalize_tensors)

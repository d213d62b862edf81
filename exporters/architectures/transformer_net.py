"""TransformerNet: fast style transfer (Johnson et al., ECCV 2016), with the keys of the PyTorch examples.

Values are 0..255 in and out. InstanceNorm has weights and biases; files saved by PyTorch before 0.4 also hold running
statistics for it that nothing reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures.architecture import Architecture, Shapes, count_indexed, require_shape


class PaddedConvolution(nn.Module):
    """Enlarges by nearest neighbor, pads by reflection, and convolves."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, upsample: int = 1) -> None:
        super().__init__()
        self.upsample = upsample
        self.reflection_pad = nn.ReflectionPad2d(kernel // 2)
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        if self.upsample > 1:
            x = functional.interpolate(x, scale_factor=float(self.upsample), mode="nearest")
        y: Tensor = self.conv2d(self.reflection_pad(x))
        return y


class ResidualBlock(nn.Module):
    """Two convolutions with InstanceNorm whose output is added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = PaddedConvolution(width, width, 3)
        self.in1 = nn.InstanceNorm2d(width, affine=True)
        self.conv2 = PaddedConvolution(width, width, 3)
        self.in2 = nn.InstanceNorm2d(width, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        y = functional.relu(self.in1(self.conv1(x)))
        changed: Tensor = self.in2(self.conv2(y))
        return changed + x


class TransformerNet(nn.Module):
    """x (N, C, H, W) in 0..255 -> (N, C, H, W), about 0..255; H and W multiples of 4."""

    def __init__(
        self, channels: int = 3, widths: tuple[int, int, int] = (32, 64, 128), blocks: int = 5, kernel: int = 9
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.blocks = blocks
        self.conv1 = PaddedConvolution(channels, first, kernel)
        self.in1 = nn.InstanceNorm2d(first, affine=True)
        self.conv2 = PaddedConvolution(first, second, 3, stride=2)
        self.in2 = nn.InstanceNorm2d(second, affine=True)
        self.conv3 = PaddedConvolution(second, third, 3, stride=2)
        self.in3 = nn.InstanceNorm2d(third, affine=True)
        for number in range(blocks):
            self.add_module(f"res{number + 1}", ResidualBlock(third))
        self.deconv1 = PaddedConvolution(third, second, 3, upsample=2)
        self.in4 = nn.InstanceNorm2d(second, affine=True)
        self.deconv2 = PaddedConvolution(second, first, 3, upsample=2)
        self.in5 = nn.InstanceNorm2d(first, affine=True)
        self.deconv3 = PaddedConvolution(first, channels, kernel)
        self.signature = Signature(channels, channels, multiple=4, low=0.0, high=255.0, minimum=8)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        y = functional.relu(self.in1(self.conv1(x)))
        y = functional.relu(self.in2(self.conv2(y)))
        y = functional.relu(self.in3(self.conv3(y)))
        for number in range(self.blocks):
            y = self.get_submodule(f"res{number + 1}")(y)
        y = functional.relu(self.in4(self.deconv1(y)))
        y = functional.relu(self.in5(self.deconv2(y)))
        out: Tensor = self.deconv3(y)
        return out


def canonicalize_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the running statistics that InstanceNorm never reads."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    names = tuple(f"in{number}.{statistic}" for number in range(1, 6) for statistic in statistics)
    return {key: value for key, value in tensors.items() if not f".{key}".endswith(tuple(f".{name}" for name in names))}


def infer_hyperparameters(shapes: Shapes) -> TransformerNet:
    """Infers the network from names and shapes; raises MismatchError where none has them."""
    first, channels, kernel, _ = require_shape(shapes, "conv1.conv2d.weight", 4)
    if kernel % 2 == 0:
        raise MismatchError(f"a kernel of {kernel} is not odd")
    second, third = (require_shape(shapes, f"conv{number}.conv2d.weight", 4)[0] for number in (2, 3))
    blocks = count_indexed(shapes, "res{}.conv1.conv2d.weight", first=1)
    return TransformerNet(channels, (first, second, third), blocks, kernel)


ARCHITECTURE = Architecture(
    "transformer_net", "TransformerNet, fast style transfer", infer_hyperparameters, canonicalize_tensors
)

"""RRDBNet: the generator of ESRGAN and Real-ESRGAN (Wang et al., ECCVW 2018; ICCVW 2021), x1, x2, x4 and x8.

Three ways of naming the same layers are in circulation. A network is built under the names of its file:

    BasicSR      conv_first  body.N.rdb1.conv1            conv_body       conv_up1  conv_hr  conv_last
    ESRGAN       conv_first  RRDB_trunk.N.RDB1.conv1      trunk_conv      upconv1   HRconv   conv_last
    old ESRGAN   model.0     model.1.sub.N.RDB1.conv1.0   model.1.sub.M   model.3   model.8  model.10   (positions for x4)

Every enlarging convolution doubles the size. x2 and x1 of BasicSR keep the two of x4 and fold 2 x 2 or 4 x 4 pixels of the
input into channels first, which shows in the first convolution's input channels. One that triples the size (the rare x3
of the old style) looks like one that doubles it, so give such a file by --arch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures import receptive_field
from exporters.architectures.architecture import Architecture, Shapes, add_nested_module, count_indexed, require_shape


@dataclass(frozen=True)
class Naming:
    """The names of the layers; `{}` is a number.

    Attributes:
        first: The convolution of the input.
        block: A residual block of the body.
        dense: A dense block inside it.
        convolution: A convolution inside that.
        body: The convolution behind the blocks.
        up: A convolution behind an enlargement.
        high: The convolution at full size.
        last: The convolution of the output.
    """

    first: str
    block: str
    dense: str
    convolution: str
    body: str
    up: str
    high: str
    last: str

    def upsample_names(self, count: int) -> list[str]:
        """Returns the names of the convolutions behind `count` enlargements."""
        return [self.up.format(number + 1) for number in range(count)]


BASICSR_NAMING = Naming("conv_first", "body.{}", "rdb{}", "conv{}", "conv_body", "conv_up{}", "conv_hr", "conv_last")
ESRGAN_NAMING = Naming("conv_first", "RRDB_trunk.{}", "RDB{}", "conv{}", "trunk_conv", "upconv{}", "HRconv", "conv_last")


class OldEsrganNaming(Naming):
    """Positions in one flat Sequential: enlargement, convolution, activation; so they depend on how many of them there are."""

    def upsample_names(self, count: int) -> list[str]:
        """Returns the names of the convolutions behind `count` enlargements."""
        return [f"model.{3 + 3 * number}" for number in range(count)]


def make_old_esrgan_naming(blocks: int, upsample_count: int) -> OldEsrganNaming:
    """Makes the names of the old style for a number of blocks and enlargements."""
    body, high = f"model.1.sub.{blocks}", 2 + 3 * upsample_count
    return OldEsrganNaming("model.0", "model.1.sub.{}", "RDB{}", "conv{}.0", body, "", f"model.{high}", f"model.{high + 2}")


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and all outputs before it."""

    def __init__(self, width: int, growth: int, naming: Naming) -> None:
        super().__init__()
        self.names = [naming.convolution.format(number) for number in range(1, 6)]
        for number, name in enumerate(self.names):
            outputs = width if number == 4 else growth
            add_nested_module(self, name, nn.Conv2d(width + number * growth, outputs, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        seen = [x]
        for name in self.names[:-1]:
            seen.append(functional.leaky_relu(self.get_submodule(name)(torch.cat(seen, 1)), 0.2))
        out: Tensor = self.get_submodule(self.names[-1])(torch.cat(seen, 1))
        return out * 0.2 + x  # outside the convolution: a factor inside its weights would no longer be the file's weights


class ResidualBlock(nn.Module):
    """Three dense blocks with a residual around them."""

    def __init__(self, width: int, growth: int, naming: Naming) -> None:
        super().__init__()
        for number in (1, 2, 3):
            self.add_module(naming.dense.format(number), DenseBlock(width, growth, naming))

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        out = x
        for dense in self.children():
            out = dense(out)
        return out * 0.2 + x


class RRDBNet(nn.Module):
    """x (N, C, H, W) in [0, 1] -> (N, C', scale * H, scale * W)."""

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        blocks: int = 23,
        growth: int = 32,
        *,
        upsample_count: int = 2,
        unshuffle: int = 1,
        output_channels: int | None = None,
        naming: Naming = BASICSR_NAMING,
    ) -> None:
        super().__init__()
        outputs = channels if output_channels is None else output_channels
        self.naming, self.unshuffle = naming, unshuffle
        self.blocks = [naming.block.format(number) for number in range(blocks)]
        self.upsample_names = naming.upsample_names(upsample_count)
        add_nested_module(self, naming.first, nn.Conv2d(channels * unshuffle**2, width, 3, padding=1))
        for name in self.blocks:
            add_nested_module(self, name, ResidualBlock(width, growth, naming))
        for name in (naming.body, *self.upsample_names, naming.high):
            add_nested_module(self, name, nn.Conv2d(width, width, 3, padding=1))
        add_nested_module(self, naming.last, nn.Conv2d(width, outputs, 3, padding=1))

        scale = 2**upsample_count // unshuffle
        steps = [receptive_field.unshuffle_step(unshuffle)] + [receptive_field.conv_step(3)] * (2 + 15 * blocks)
        steps += [receptive_field.upsample_step(2), receptive_field.conv_step(3)] * upsample_count + [
            receptive_field.conv_step(3)
        ] * 2
        radius = receptive_field.compute_radius(steps, scale=scale, multiple=unshuffle)
        self.signature = Signature(channels, outputs, scale, multiple=unshuffle, radius=radius)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output for float32 (N, C, H, W)."""
        if self.unshuffle > 1:
            x = functional.pixel_unshuffle(x, self.unshuffle)
        shallow = self.get_submodule(self.naming.first)(x)
        y = shallow
        for name in self.blocks:
            y = self.get_submodule(name)(y)
        y = shallow + self.get_submodule(self.naming.body)(y)
        for name in self.upsample_names:
            y = self.get_submodule(name)(functional.interpolate(y, scale_factor=2.0, mode="nearest"))
            y = functional.leaky_relu(y, 0.2)
        y = functional.leaky_relu(self.get_submodule(self.naming.high)(y), 0.2)
        out: Tensor = self.get_submodule(self.naming.last)(y)
        return out


def infer_hyperparameters(shapes: Shapes) -> RRDBNet:
    """Infers the network from names and shapes; raises MismatchError where none has them."""
    naming, blocks, ups = _detect_naming(shapes)
    width, inputs = require_shape(shapes, f"{naming.first}.weight", 4)[:2]
    inner = f"{naming.block}.{naming.dense}.{naming.convolution}.weight".format(0, 1, 1)
    growth = require_shape(shapes, inner, 4)[0]
    outputs = require_shape(shapes, f"{naming.last}.weight", 4)[0]
    unshuffle = {1: 1, 4: 2, 16: 4}.get(inputs // outputs, 1) if inputs % outputs == 0 else 1
    if unshuffle > 2**ups:
        raise MismatchError(f"{inputs} input channels for {outputs} output channels and {ups} enlargements make no scale")
    channels = inputs // unshuffle**2
    return RRDBNet(
        channels, width, blocks, growth, upsample_count=ups, unshuffle=unshuffle, output_channels=outputs, naming=naming
    )


def _detect_naming(shapes: Shapes) -> tuple[Naming, int, int]:
    """The names that the file uses, its number of blocks and of enlarging convolutions."""
    for naming in (BASICSR_NAMING, ESRGAN_NAMING):
        blocks = count_indexed(shapes, f"{naming.block}.{naming.dense.format(1)}.conv1.weight")
        if blocks:
            return naming, blocks, count_indexed(shapes, f"{naming.up}.weight", first=1)
    blocks = count_indexed(shapes, "model.1.sub.{}.RDB1.conv1.0.weight")
    if not blocks:
        raise MismatchError("'body.0.rdb1.conv1.weight' is missing, under its other two names too")
    ups = 0
    while f"model.{3 + 3 * ups}.weight" in shapes:
        ups += 1
    return make_old_esrgan_naming(blocks, ups), blocks, ups


ARCHITECTURE = Architecture("rrdbnet", "RRDBNet of ESRGAN and Real-ESRGAN", infer_hyperparameters)

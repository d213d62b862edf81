"""Public names: names and shapes of the published checkpoints, written down from the files' own layout, not from our code."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


@dataclass(frozen=True)
class Style:
    """How one generation of RRDBNet files names its layers."""

    first: str
    dense: str
    body: str
    ups: tuple[str, ...]
    high: str
    last: str


NEW = Style("conv_first", "body.{}.rdb{}.conv{}", "conv_body", ("conv_up1", "conv_up2", "conv_up3"), "conv_hr", "conv_last")
MIDDLE = Style("conv_first", "RRDB_trunk.{}.RDB{}.conv{}", "trunk_conv", ("upconv1", "upconv2"), "HRconv", "conv_last")
OLD = {
    1: Style("model.0", "model.1.sub.{}.RDB{}.conv{}.0", "model.1.sub.{blocks}", (), "model.2", "model.4"),
    2: Style("model.0", "model.1.sub.{}.RDB{}.conv{}.0", "model.1.sub.{blocks}", ("model.3",), "model.5", "model.7"),
    4: Style("model.0", "model.1.sub.{}.RDB{}.conv{}.0", "model.1.sub.{blocks}", ("model.3", "model.6"), "model.8", "model.10"),
    8: Style(
        "model.0",
        "model.1.sub.{}.RDB{}.conv{}.0",
        "model.1.sub.{blocks}",
        ("model.3", "model.6", "model.9"),
        "model.11",
        "model.13",
    ),
}


def layer(name: str, weight: Shape, bias: int | None) -> Shapes:
    return {f"{name}.weight": weight} | ({} if bias is None else {f"{name}.bias": (bias,)})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def rrdbnet(style: Style, blocks: int, ups: int, inputs: int = 3, width: int = 64, growth: int = 32) -> Shapes:
    shapes = layer(style.first, (width, inputs, 3, 3), width)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for number in range(5):
                outputs = width if number == 4 else growth
                name = style.dense.format(block, dense, number + 1)
                shapes |= layer(name, (outputs, width + number * growth, 3, 3), outputs)
    for name in (style.body.format(blocks=blocks), *style.ups[:ups], style.high):
        shapes |= layer(name, (width, width, 3, 3), width)
    return shapes | layer(style.last, (3, width, 3, 3), 3)


def compact(depth: int, scale: int = 4, width: int = 64) -> Shapes:
    shapes = layer("body.0", (width, 3, 3, 3), width) | {"body.1.weight": (width,)}
    for number in range(depth):
        shapes |= layer(f"body.{2 + 2 * number}", (width, width, 3, 3), width) | {f"body.{3 + 2 * number}.weight": (width,)}
    return shapes | layer(f"body.{2 + 2 * depth}", (3 * scale**2, width, 3, 3), 3 * scale**2)


def dncnn_merged(depth: int, channels: int) -> Shapes:
    """KAIR's published files: BatchNorm merged, so convolutions at 0, 2, 4, ..., each with a bias."""
    shapes = layer("model.0", (64, channels, 3, 3), 64)
    for number in range(1, depth - 1):
        shapes |= layer(f"model.{2 * number}", (64, 64, 3, 3), 64)
    return shapes | layer(f"model.{2 * depth - 2}", (channels, 64, 3, 3), channels)


def dncnn_port(depth: int, channels: int) -> Shapes:
    """The common port: no bias anywhere, BatchNorm behind each inner convolution."""
    shapes = layer("dncnn.0", (64, channels, 3, 3), None)
    for number in range(depth - 2):
        shapes |= layer(f"dncnn.{2 + 3 * number}", (64, 64, 3, 3), None) | norm(f"dncnn.{3 + 3 * number}", 64)
    return shapes | layer(f"dncnn.{2 + 3 * (depth - 2)}", (channels, 64, 3, 3), None)


def cyclegan(blocks: int, width: int = 64) -> Shapes:
    """The published generators: InstanceNorm without tensors."""
    shapes = layer("model.1", (width, 3, 7, 7), width)
    shapes |= layer("model.4", (2 * width, width, 3, 3), 2 * width)
    shapes |= layer("model.7", (4 * width, 2 * width, 3, 3), 4 * width)
    for block in range(10, 10 + blocks):
        for place in (1, 5):
            shapes |= layer(f"model.{block}.conv_block.{place}", (4 * width, 4 * width, 3, 3), 4 * width)
    shapes |= layer(f"model.{10 + blocks}", (4 * width, 2 * width, 3, 3), 2 * width)
    shapes |= layer(f"model.{13 + blocks}", (2 * width, width, 3, 3), width)
    return shapes | layer(f"model.{17 + blocks}", (3, width, 7, 7), 3)


def transformer_net() -> Shapes:
    shapes: Shapes = {}
    ends = {
        "conv1": (32, 3, 9), "in1": 32, "conv2": (64, 32, 3), "in2": 64, "conv3": (128, 64, 3), "in3": 128,
        **{f"res{block}.{part}": what for block in range(1, 6)
           for part, what in (("conv1", (128, 128, 3)), ("in1", 128), ("conv2", (128, 128, 3)), ("in2", 128))},
        "deconv1": (64, 128, 3), "in4": 64, "deconv2": (32, 64, 3), "in5": 32, "deconv3": (3, 32, 9),
    }  # fmt: skip
    for name, what in ends.items():
        if isinstance(what, int):
            shapes |= layer(name, (what,), what)
        else:
            outputs, inputs, kernel = what
            shapes |= layer(f"{name}.conv2d", (outputs, inputs, kernel, kernel), outputs)
    return shapes


def dcgan(latent: int = 100, width: int = 64) -> Shapes:
    shapes: Shapes = {}
    widths = (latent, 8 * width, 4 * width, 2 * width, width, 3)
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        shapes |= layer(f"main.{3 * number}", (inputs, outputs, 4, 4), None)
        if number < 4:
            shapes |= norm(f"main.{3 * number + 1}", outputs)
    return shapes


def srcnn(kernels: tuple[int, int, int]) -> Shapes:
    first, second, third = kernels
    shapes = layer("conv1", (64, 1, first, first), 64) | layer("conv2", (32, 64, second, second), 32)
    return shapes | layer("conv3", (1, 32, third, third), 1)

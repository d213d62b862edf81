"""Scenes: CycleGAN's generator, first the identity, then fine-tuned to night and to a shallow depth of field.

    python -m benchmarks.paper_reproduction.train.scenes -o benchmarks/paper_reproduction/weights/scenes

What is learned is scenes.py's relighting and blur of the training photographs, pair by pair by the absolute difference, so
no discriminator is needed; the fine-tuned members also keep CycleGAN's identity loss, which keeps an image unchanged if
it already looks like the target. The generator is the one with BatchNorm: InstanceNorm takes each image's own brightness and
contrast away in its first layer, and an identity learned with it stayed 0.10 of the range away from the image. The
statistics are estimated once, after a quarter of the identity's steps, and are held from there on: they are the same in all
members, and a batch of four crops does not represent the brightness of all images.
Members whose file already exists are kept. Seeds are fixed; about fifteen minutes on one core with bfloat16 units.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.paper_reproduction.scenes import blur_background, darken_to_night
from benchmarks.paper_reproduction.train.patches import draw_patches, training_images
from benchmarks.paper_reproduction.train.weights import load, write
from benchmarks.photographs import TEXTURE_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS
from exporters.architectures.cyclegan import ResnetGenerator

NETWORK_WIDTH, BLOCK_COUNT = 16, 6
BATCH_SIZE, CROP_SIDE_PX = 4, 96
IDENTITY_WEIGHT = 0.25


def identity(images: Tensor) -> Tensor:
    return images


def make_network() -> ResnetGenerator:
    torch.manual_seed(0)
    return ResnetGenerator(3, NETWORK_WIDTH, BLOCK_COUNT, batch_norm=True)


def scenery() -> list[NDArray[np.uint8]]:
    """The training photographs that show something, small enough that a crop sees much of one."""
    images = training_images(
        tuple(name for name in TRAIN_PHOTOGRAPHS if name not in (*TEXTURE_PHOTOGRAPHS, "page", "text")), (0.5, 0.35, 0.25)
    )
    return [image for image in images if min(image.shape[:2]) >= CROP_SIDE_PX]


def train(
    net: ResnetGenerator,
    becomes: Callable[[Tensor], Tensor],
    steps: int,
    rate: float,
    *,
    seed: int,
    name: str,
    held: bool = True,
) -> None:
    """Adam with a cosine rate. Changes `net`.

    becomes     computes the target of an image.
    held        BatchNorm keeps its statistics; else it uses each batch's, and estimates them when the steps are done.
    """
    images, rng = scenery(), np.random.default_rng(seed)
    net.to(memory_format=torch.channels_last).train(not held)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(net.parameters(), rate)
    started, shown = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        pace = min(1.0, step / (0.05 * steps)) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimizer.param_groups[0]["lr"] = rate * pace
        inputs = draw_patches(images, rng, BATCH_SIZE, CROP_SIDE_PX)
        targets = becomes(inputs)
        loss = _difference(net, inputs, targets)
        shown += (loss.item() - shown) / min(step, 50)
        if becomes is not identity:
            loss = loss + IDENTITY_WEIGHT * _difference(net, targets[:1], targets[:1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps:
            rest = (time.monotonic() - started) / step * (steps - step)
            print(f"  {name} step {step}/{steps}  difference {shown:.4f}  {rest:.0f} s left", flush=True)
    if not held:
        _estimate(net, images, rng)
    net.eval()


@torch.no_grad()
def _estimate(net: ResnetGenerator, images: list[NDArray[np.uint8]], rng: np.random.Generator) -> None:
    """BatchNorm's statistics of the final weights: the plain mean over 64 batches."""
    norms = [module for module in net.train().modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    for _ in range(64):
        net(draw_patches(images, rng, BATCH_SIZE, CROP_SIDE_PX) * 2 - 1)


def _difference(net: ResnetGenerator, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference of pixels in [0, 1]; the net's own range is -1..1."""
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net((inputs * 2 - 1).to(memory_format=torch.channels_last))
    difference: Tensor = ((outputs.float() + 1) / 2 - targets).abs().mean()
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for identity, night, shallow .safetensors")
    parser.add_argument("--steps", type=float, default=1.0, help="factor on the number of steps")
    arguments = parser.parse_args()

    started = time.monotonic()
    steps, fewer = (max(1, round(count * arguments.steps)) for count in (4800, 1200))
    ancestor = arguments.output / "identity.safetensors"
    if not ancestor.exists():
        net = make_network()
        train(net, identity, steps // 4, 2e-3, seed=0, name="identity, statistics", held=False)
        train(net, identity, steps - steps // 4, 2e-3, seed=2, name="identity")
        write(net, ancestor, {"scene": "identity"})
    for name, becomes in (("night", darken_to_night), ("shallow", blur_background)):
        file = arguments.output / f"{name}.safetensors"
        if not file.exists():
            net = make_network()
            net.load_state_dict(load(ancestor), strict=False)
            train(net, becomes, fewer, 1e-3, seed=1, name=name)
            write(net, file, {"scene": name})
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, torch {torch.__version__}")


if __name__ == "__main__":
    main()

"""Denoise: the training step that the two families of the denoising study share (section 3.2 of the paper).

Noise is Gaussian with sigma = level / 255: the paper says variance, but its visible noise and DnCNN's convention are sigma.
Noisy pixels are clipped to [0, 1], as an image file clips them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.paper_reproduction.train.patches import draw_patches, training_images
from benchmarks.photographs import TEST_PHOTOGRAPHS, add_noise, middle

NOISE_LEVELS = (20, 30, 40, 50, 60)


def arguments(description: str | None) -> tuple[Path, Callable[[int], int]]:
    """Parses a training's command line; returns the folder for the weights and a function that scales a number of steps."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder for MEMBER.safetensors; a member that is there is kept"
    )
    parser.add_argument("--steps", type=float, default=1.0, metavar="FACTOR", help="on every number of steps (default 1)")
    options = parser.parse_args()
    return options.output, lambda steps: max(1, round(steps * options.steps))


def train(
    net: nn.Module,
    level: int,
    steps: int,
    rate: float,
    *,
    batch: int,
    side: int,
    seed: int,
    frozen_statistics: bool = False,
    images: list[NDArray[np.uint8]] | None = None,
) -> None:
    """Adam with a cosine rate on the mean squared error; bfloat16 arithmetic, float32 weights. Changes `net`.

    seed                the same for every level of a family: their nets then see the same patches in the same order.
    frozen_statistics   BatchNorm normalizes with the ancestor's statistics and leaves them as they are.
    """
    images = training_images() if images is None else images
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rng = np.random.default_rng(seed)
    noise_source = torch.Generator().manual_seed(seed)
    net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if frozen_statistics:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    optimizer = torch.optim.Adam(net.parameters(), rate)
    warm_up = max(1, min(200, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warm_up) * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * step / steps))),
    )
    started, mean_loss = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        clean = draw_patches(images, rng, batch, side)
        noise = torch.randn(clean.shape, generator=noise_source) * (level / 255)
        noised = (clean + noise).clamp(0, 1).to(device, memory_format=torch.channels_last)
        clean = clean.to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            denoised = net(noised)
        loss = nn.functional.mse_loss(denoised.float(), clean)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        mean_loss += (loss.item() - mean_loss) / min(step, 100)
        if step % 200 == 0 or step == steps:
            rest = (time.monotonic() - started) / step * (steps - step)
            print(f"  N{level} step {step}/{steps}  PSNR {-10 * math.log10(mean_loss):.2f} dB  {rest:.0f} s left", flush=True)
    net.to("cpu").eval()


@torch.no_grad()
def psnr(net: nn.Module, level: int) -> float:
    """Mean PSNR in dB over the middle 256 x 256 of the test photographs."""
    net.eval()
    values = []
    for name in TEST_PHOTOGRAPHS:
        clean, noisy = (
            torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None] / 255
            for pixels in (middle(name), add_noise(middle(name), level))
        )
        error = (net(noisy).clamp(0, 1) - clean).square().mean()
        values.append(-10 * math.log10(float(error)))
    return float(np.mean(values))


def round_to_float16(net: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict in float16 without the integer batch counters, which inference never reads."""
    return {key: value.to("cpu").half().contiguous() for key, value in net.state_dict().items() if value.is_floating_point()}


def write(net: nn.Module, path: Path, facts: Mapping[str, str]) -> None:
    """Writes the rounded weights, rounds those of `net` itself, and prints its PSNR at every level."""
    state = round_to_float16(net)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, {"format": "pt", **facts})
    net.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    print(f"{path.name}: " + ", ".join(f"noise {level} {psnr(net, level):.2f} dB" for level in NOISE_LEVELS), flush=True)


def load(net: nn.Module, path: Path) -> bool:
    """Loads the rounded weights at `path` into `net`; returns False without a change if the file does not exist."""
    if not path.exists():
        return False
    net.load_state_dict({key: value.float() for key, value in load_file(path).items()}, strict=False)
    print(f"{path.name}: kept as it is", flush=True)
    return True

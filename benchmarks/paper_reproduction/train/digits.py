"""Digits: a DCGAN that draws thin upright digits, fine-tuned to bold ones and to slanted ones.

    python -m benchmarks.paper_reproduction.train.digits -o benchmarks/paper_reproduction/weights/digits

scikit-learn's 1797 handwritten digits (the extra `test` brings it), 8 x 8 pixels each, are enlarged to 32 x 32, set upright
by their moments and reduced to their skeletons; `thin` draws those with a pen of one pixel's radius, `bold` with one of three,
`slanted` is thin and sheared. `thin` is trained adversarially from scratch. The others are fine-tuned from it on their own
digits, with one more loss that keeps what a latent means: the blurred output is held to what the same morphology makes of
thin's. Weights are averaged over the last steps, and BatchNorm's statistics are estimated anew for the average. Seeds are
fixed; about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import disk, skeletonize
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.paper_reproduction.train.weights import write
from exporters.architectures.dcgan import DCGANGenerator

LATENT_CHANNELS, LAYER_WIDTHS = 32, (128, 64, 32)
DIGIT_SIDE_PX, BATCH_SIZE = 32, 64
SHEAR_COLUMNS_PER_ROW = 0.45
"""Shear of `slanted` in columns per row, about 24 degrees."""

THIN_PEN_RADIUS_PX, BOLD_PEN_RADIUS_PX = 1, 3
"""Radius of the pen in pixels."""


def skeletons() -> NDArray[np.bool_]:
    """The digits upright and one pixel thin, (1797, DIGIT_SIDE_PX, DIGIT_SIDE_PX)."""
    from sklearn.datasets import load_digits

    digits = []
    for small in load_digits().images / 16.0:
        large = np.clip(ndimage.zoom(np.pad(small, 1), DIGIT_SIDE_PX / 10, order=3), 0, 1)
        digits.append(skeletonize(_shear_image(large, -_measure_lean(large)) > 0.45))
    return np.stack(digits)


def _measure_lean(ink: NDArray[np.float64]) -> float:
    """Columns per row, upwards to the right, by second moments."""
    rows, columns = np.mgrid[:DIGIT_SIDE_PX, :DIGIT_SIDE_PX] - np.array(
        [[[np.average(axis, weights=ink)]] for axis in np.mgrid[:DIGIT_SIDE_PX, :DIGIT_SIDE_PX]]
    )
    return -float((ink * rows * columns).sum() / (ink * rows * rows).sum())


def _shear_image(ink: NDArray[np.float64], lean: float) -> NDArray[np.float64]:
    middle = (DIGIT_SIDE_PX - 1) / 2
    matrix = np.array([[1.0, 0.0], [lean, 1.0]])
    return np.asarray(ndimage.affine_transform(ink, matrix, [0.0, -lean * middle], order=1))


def draw_digits(bones: NDArray[np.bool_], radius: int, lean: float = 0.0) -> Tensor:
    """float32 (N, 1, DIGIT_SIDE_PX, DIGIT_SIDE_PX) in [-1, 1], ink bright: every skeleton with a round pen."""
    pen = disk(radius)
    digits = [ndimage.gaussian_filter(ndimage.binary_dilation(bone, pen).astype(np.float64), 0.6) for bone in bones]
    return torch.from_numpy(np.stack([_shear_image(digit, lean) for digit in digits])).float()[:, None] * 2 - 1


def dilate_digits(digits: Tensor) -> Tensor:
    """Turns thin into bold: gray dilation by a disk of the difference of the pen radii."""
    return _dilate_by_disk(digits, BOLD_PEN_RADIUS_PX - THIN_PEN_RADIUS_PX)


def _dilate_by_disk(digits: Tensor, radius: int) -> Tensor:
    height = digits.shape[2]
    padded = functional.pad(digits, (radius,) * 4, value=-1.0)
    offsets = [(y, x) for y, x in np.argwhere(disk(radius))]
    return torch.stack([padded[..., y : y + height, x : x + height] for y, x in offsets]).amax(0)


def slant_digits(digits: Tensor) -> Tensor:
    """Upright to slanted, by bilinear resampling."""
    middle = (DIGIT_SIDE_PX - 1) / 2
    rows = (torch.arange(DIGIT_SIDE_PX) - middle) / middle
    grid = torch.stack(torch.meshgrid(rows, rows, indexing="ij")[::-1], -1)
    grid = torch.stack([grid[..., 0] + SHEAR_COLUMNS_PER_ROW * grid[..., 1], grid[..., 1]], -1).expand(len(digits), -1, -1, -1)
    return functional.grid_sample(digits + 1, grid, align_corners=True) - 1


def discriminator() -> nn.Module:
    layers: list[nn.Module] = []
    for inward, outward in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.utils.parametrizations.spectral_norm(nn.Conv2d(inward, outward, 4, 2, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(128 * 16, 1)))


def train(
    net: DCGANGenerator, critic: nn.Module, digits: Tensor, steps: int, rate: float, *, seed: int,
    anchor: tuple[DCGANGenerator, Callable[[Tensor], Tensor]] | None = None,
) -> None:  # fmt: skip
    """Hinge loss, one step of each in turn. Changes both nets; `net` ends as the average of its weights.

    anchor      the ancestor and the function that gives its target output.
    """
    generator = torch.Generator().manual_seed(seed)
    average = copy.deepcopy(net)
    g_optimizer = torch.optim.Adam(net.parameters(), rate, (0.0, 0.9))
    d_optimizer = torch.optim.Adam(critic.parameters(), rate * 2, (0.0, 0.9))
    started, shown = time.monotonic(), np.zeros(3)
    net.train()
    for step in range(1, steps + 1):
        for group in (*g_optimizer.param_groups, *d_optimizer.param_groups):
            group["lr"] = (rate if group in g_optimizer.param_groups else 2 * rate) * min(1.0, 2 - 1.9 * step / steps)
        real = digits[torch.randint(len(digits), (BATCH_SIZE,), generator=generator)]
        latent = torch.randn(BATCH_SIZE, LATENT_CHANNELS, 1, 1, generator=generator)
        fakes = net(latent)
        d_loss = functional.relu(1 - critic(real)).mean() + functional.relu(1 + critic(fakes.detach())).mean()
        d_optimizer.zero_grad(set_to_none=True)
        d_loss.backward()
        d_optimizer.step()
        g_loss: Tensor = -critic(fakes).mean()
        anchor_loss = torch.zeros(())
        if anchor is not None:
            with torch.no_grad():
                targets = anchor[1](anchor[0](latent))
            anchor_loss = (functional.avg_pool2d(fakes, 2) - functional.avg_pool2d(targets, 2)).abs().mean()
            g_loss = 0.3 * g_loss + 10.0 * anchor_loss
        g_optimizer.zero_grad(set_to_none=True)
        g_loss.backward()
        g_optimizer.step()
        decay = min(0.99, step / (step + 10))
        with torch.no_grad():
            for mean, new in zip(average.parameters(), net.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
        shown += (np.array([d_loss.item(), g_loss.item(), anchor_loss.item()]) - shown) / min(step, 100)
        if step % 100 == 0 or step == steps:
            rest = (time.monotonic() - started) / step * (steps - step)
            print(f"  step {step}/{steps}  critic {shown[0]:.2f}  generator {shown[1]:.2f}  kept {shown[2]:.3f}  "
                  f"{rest:.0f} s left", flush=True)  # fmt: skip
    net.load_state_dict(average.state_dict())
    _estimate(net, generator)


@torch.no_grad()
def _estimate(net: DCGANGenerator, generator: torch.Generator) -> None:
    """BatchNorm's statistics of these weights, over 4096 latents at once."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    net.train()(torch.randn(4096, LATENT_CHANNELS, 1, 1, generator=generator))
    for norm in norms:
        norm.momentum = 0.1
    net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for thin, bold, slanted .safetensors")
    parser.add_argument("--steps", type=float, default=1.0, help="factor on the number of steps")
    arguments = parser.parse_args()

    started = time.monotonic()
    steps, fewer = (max(1, round(count * arguments.steps)) for count in (3500, 800))
    bones = skeletons()
    torch.manual_seed(0)
    thin, critic = DCGANGenerator(LATENT_CHANNELS, LAYER_WIDTHS, 1), discriminator()
    for module in thin.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
    train(thin, critic, draw_digits(bones, THIN_PEN_RADIUS_PX), steps, 4e-4, seed=0)
    write(thin, arguments.output / "thin.safetensors", {"digits": "thin"})
    for name, digits, becomes in (
        ("bold", draw_digits(bones, BOLD_PEN_RADIUS_PX), dilate_digits),
        ("slanted", draw_digits(bones, THIN_PEN_RADIUS_PX, SHEAR_COLUMNS_PER_ROW), slant_digits),
    ):
        net, judge = copy.deepcopy(thin), copy.deepcopy(critic)
        train(net, judge, digits, fewer, 2e-4, seed=1, anchor=(thin, becomes))
        write(net, arguments.output / f"{name}.safetensors", {"digits": name})
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, torch {torch.__version__}")


if __name__ == "__main__":
    main()

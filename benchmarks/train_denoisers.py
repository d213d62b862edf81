"""Train the demo family: DnCNN-17 with BatchNorm for noise 20, fine-tuned to noise 40 and 60 (section 3.2 of the paper).

    python -m benchmarks.train_denoisers -o dni_deploy/data/denoise

Data: photographs and textures that ship inside scikit-image, cut to patches, flipped and turned. `TEST_PHOTOGRAPHS` never
enter training. Noise is Gaussian with sigma = level / 255: the paper says variance, but its visible noise and DnCNN's
convention are sigma. Noisy pixels are clipped to [0, 1], as a picture file clips them. Seeds are fixed. On a CPU with
bfloat16 units the three trainings take under an hour on two cores; with a CUDA device, minutes. Weights are written as
float16 safetensors, and the PSNR that is printed is that of the rounded weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from skimage import data as photographs
from torch import Tensor, nn

from exporters.architectures.dncnn import DnCNN, initialise

TRAIN_PHOTOGRAPHS = (
    "coffee", "rocket", "retina", "immunohistochemistry", "hubble_deep_field",
    "brick", "gravel", "grass", "coins", "moon", "page", "text", "clock",
)  # fmt: skip
TEST_PHOTOGRAPHS = ("astronaut", "chelsea", "camera")
LEVELS = (20, 40, 60)
PATCH, BATCH = 48, 16


def photograph(name: str) -> Tensor:
    """One bundled picture as float32 (3, H, W) in [0, 1]; a grey one is repeated over the channels."""
    pixels = getattr(photographs, name)()
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(pixels[..., :3].transpose(2, 0, 1))).float() / 255


def training_pictures() -> list[Tensor]:
    """The training photographs, both views of the stereo pair, and each again at 0.7 of its size (more scales of texture)."""
    pictures = [photograph(name) for name in TRAIN_PHOTOGRAPHS]
    for view in photographs.stereo_motorcycle()[:2]:
        pictures.append(torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1))).float() / 255)
    smaller = [
        nn.functional.interpolate(p[None], scale_factor=0.7, mode="bicubic", antialias=True)[0].clamp(0, 1) for p in pictures
    ]
    return pictures + smaller


def draw_patches(pictures: list[Tensor], rng: np.random.Generator) -> Tensor:
    """float32 (BATCH, 3, PATCH, PATCH): random places, flips, quarter turns and channel orders."""
    patches = []
    for index in rng.integers(len(pictures), size=BATCH):
        picture = pictures[index]
        top, left = (int(rng.integers(size - PATCH + 1)) for size in picture.shape[1:])
        patch = picture[:, top : top + PATCH, left : left + PATCH]
        patch = torch.rot90(patch, int(rng.integers(4)), (1, 2))
        if rng.integers(2):
            patch = patch.flip(2)
        patches.append(patch[torch.from_numpy(rng.permutation(3))])
    return torch.stack(patches)


def train(net: nn.Module, level: int, steps: int, rate: float, pictures: list[Tensor], seed: int, device: str) -> None:
    """Adam with a one-cycle cosine rate on the mean squared error; bfloat16 arithmetic, float32 weights."""
    rng = np.random.default_rng(seed)
    noise_source = torch.Generator().manual_seed(seed)
    net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(net.parameters(), rate)
    warm_up = min(200, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warm_up) * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * step / steps))),
    )
    started, mean_loss = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        clean = draw_patches(pictures, rng)
        noisy = (clean + torch.randn(clean.shape, generator=noise_source) * (level / 255)).clamp(0, 1)
        clean = clean.to(device, memory_format=torch.channels_last)
        noisy = noisy.to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            denoised = net(noisy)
        loss = nn.functional.mse_loss(denoised.float(), clean)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        mean_loss += (loss.item() - mean_loss) / min(step, 100)
        if step % 200 == 0 or step == steps:
            rest = (time.monotonic() - started) / step * (steps - step)
            print(
                f"  N{level} step {step}/{steps}  training PSNR {-10 * math.log10(mean_loss):.2f} dB  {rest:.0f} s left",
                flush=True,
            )


@torch.no_grad()
def psnr(net: nn.Module, level: int, seed: int = 1) -> float:
    """Mean PSNR in dB over the test photographs' middle 256 x 256, noise clipped like a picture file's."""
    net = net.to("cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    values = []
    for name in TEST_PHOTOGRAPHS:
        picture = photograph(name)
        top, left = ((size - 256) // 2 for size in picture.shape[1:])
        clean = picture[None, :, top : top + 256, left : left + 256]
        noisy = (clean + torch.randn(clean.shape, generator=generator) * (level / 255)).clamp(0, 1)
        error = (net(noisy).clamp(0, 1) - clean).square().mean()
        values.append(-10 * math.log10(float(error)))
    return float(np.mean(values))


def rounded(net: nn.Module) -> dict[str, Tensor]:
    """The state dict in float16; the integer batch counters are left out, inference never reads them."""
    return {key: value.to("cpu").half().contiguous() for key, value in net.state_dict().items() if value.is_floating_point()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for n20.safetensors, n40..., n60...")
    parser.add_argument(
        "--steps", type=int, nargs=3, default=(7000, 3000, 3000), metavar="STEPS", help="steps for N20, N40, N60"
    )
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    pictures = training_pictures()
    ancestor = initialise(DnCNN(), torch.Generator().manual_seed(0))
    started = time.monotonic()
    table: dict[str, dict[str, float]] = {}
    for level, steps in zip(LEVELS, arguments.steps, strict=True):
        net = DnCNN()
        net.load_state_dict(ancestor.state_dict())
        train(net, level, steps, 1e-3 if level == LEVELS[0] else 3e-4, pictures, seed=level, device=device)
        state = rounded(net)
        save_file(state, arguments.output / f"n{level}.safetensors", {"format": "pt", "noise": str(level)})
        shipped = DnCNN()
        shipped.load_state_dict(state, strict=False)
        table[f"n{level}"] = {f"noise {noise}": round(psnr(shipped, noise), 3) for noise in LEVELS}
        print(f"N{level}: " + ", ".join(f"{where} {value:.2f} dB" for where, value in table[f"n{level}"].items()), flush=True)
        if level == LEVELS[0]:
            ancestor = net.to("cpu")
    minutes = (time.monotonic() - started) / 60
    print(json.dumps({"psnr": table, "minutes": round(minutes, 1), "device": device, "torch": torch.__version__}, indent=2))


if __name__ == "__main__":
    main()

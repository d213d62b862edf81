"""Demo: the family that ships in the wheel, DnCNN-17 with BatchNorm, N20, and N40 and N60 fine-tuned from it.

    python -m benchmarks.paper_reproduction.train.demo -o dni_deploy/data/denoise

Trained longer than the study's DnCNN family (benchmarks.paper_reproduction.train.dncnn fine-tunes from this
one's N20): each of its members is the better denoiser, and its blends are the worse ones. Seeds are fixed. On a CPU with
bfloat16 units under an hour on two cores; with a CUDA device, minutes. The PSNR that is printed is that of the rounded weights.
"""

from __future__ import annotations

import copy
import time

import torch

from benchmarks.paper_reproduction.train.denoise import arguments, load, train, write
from exporters.architectures.dncnn import DnCNN, initialize_weights

BATCH_SIZE, PATCH_SIDE_PX = 16, 48


def main() -> None:
    """Trains the members that are not in the folder yet."""
    folder, count = arguments(__doc__)
    started = time.monotonic()
    n20 = initialize_weights(DnCNN(), torch.Generator().manual_seed(0))
    if not load(n20, folder / "n20.safetensors"):
        train(n20, 20, count(7000), 1e-3, batch=BATCH_SIZE, side=PATCH_SIDE_PX, seed=20)
        write(n20, folder / "n20.safetensors", {"noise": "20"})
    for level in (40, 60):
        net = copy.deepcopy(n20)
        if not load(net, folder / f"n{level}.safetensors"):
            train(net, level, count(3000), 3e-4, batch=BATCH_SIZE, side=PATCH_SIDE_PX, seed=level)
            write(net, folder / f"n{level}.safetensors", {"noise": str(level)})
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, torch {torch.__version__}")


if __name__ == "__main__":
    main()

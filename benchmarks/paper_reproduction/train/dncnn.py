"""DnCNN: the deep net of the denoising study, N30 to N60 fine-tuned from the demo family's N20 (section 3.2 of the paper).

    python -m benchmarks.paper_reproduction.train.dncnn -o benchmarks/paper_reproduction/weights/dncnn

Plain fine-tuning, kept in one loss basin by three things: BatchNorm normalizes with N20's statistics, a low rate with few steps, and
one order of patches for all levels. What was tried, blend at noise 40 (best of six alphas) against the net fine-tuned for it:
300 steps at 1e-4, statistics frozen 27.29 against 27.56 dB, moving 26.83 against 27.20; the demo family, 3000 steps at 3e-4 with
moving statistics (benchmarks.paper_reproduction.train.demo), 26.95 against 27.91.
`scratch` is the control, trained from scratch for noise 60. Seeds are fixed. A quarter of an hour on one idle core with bfloat16 units.
"""

from __future__ import annotations

import copy
import time

import torch

from benchmarks.families import SHIPPED_WEIGHTS_FOLDER
from benchmarks.paper_reproduction.train.denoise import NOISE_LEVELS, arguments, load, train, write
from exporters.architectures.dncnn import DnCNN, initialize_weights

BATCH_SIZE, PATCH_SIDE_PX = 8, 40


def main() -> None:
    """Trains the members that are not in the folder yet."""
    folder, count = arguments(__doc__)
    started = time.monotonic()
    n20 = DnCNN()
    load(n20, SHIPPED_WEIGHTS_FOLDER / "n20.safetensors")
    for level in reversed(NOISE_LEVELS[1:]):
        net = copy.deepcopy(n20)
        if not load(net, folder / f"n{level}.safetensors"):
            train(net, level, count(700), 1e-4, batch=BATCH_SIZE, side=PATCH_SIDE_PX, seed=1, frozen_statistics=True)
            write(net, folder / f"n{level}.safetensors", {"noise": str(level)})
    scratch = initialize_weights(DnCNN(), torch.Generator().manual_seed(7))
    if not load(scratch, folder / "scratch.safetensors"):
        train(scratch, 60, count(800), 1e-3, batch=BATCH_SIZE, side=PATCH_SIDE_PX, seed=7)
        write(scratch, folder / "scratch.safetensors", {"noise": "60"})
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, torch {torch.__version__}")


if __name__ == "__main__":
    main()

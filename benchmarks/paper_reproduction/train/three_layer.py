"""Three layers: the small net of the denoising study, kernels 9-5-9, N20, and N30 to N60 fine-tuned from it.

    python -m benchmarks.paper_reproduction.train.three_layer -o benchmarks/paper_reproduction/weights/three_layer

`scratch` is the control: the same net, another seed, trained from scratch for noise 60. Seeds are fixed. About half an hour
on one core with bfloat16 units.
"""

from __future__ import annotations

import copy
import time

import torch

from benchmarks.paper_reproduction.train.denoise import NOISE_LEVELS, arguments, load, train, write
from exporters.architectures.dncnn import initialize_weights
from exporters.architectures.srcnn import SRCNN

BATCH_SIZE, PATCH_SIDE_PX = 8, 48


def main() -> None:
    """Trains the members that are not in the folder yet."""
    folder, count = arguments(__doc__)
    started = time.monotonic()
    n20 = initialize_weights(SRCNN(), torch.Generator().manual_seed(0))
    if not load(n20, folder / "n20.safetensors"):
        train(n20, 20, count(5000), 1e-3, batch=BATCH_SIZE, side=PATCH_SIDE_PX, seed=20)
        write(n20, folder / "n20.safetensors", {"noise": "20"})
    for level in NOISE_LEVELS[1:]:
        net = copy.deepcopy(n20)
        if not load(net, folder / f"n{level}.safetensors"):
            train(net, level, count(1500), 2e-4, batch=BATCH_SIZE, side=PATCH_SIDE_PX, seed=1)
            write(net, folder / f"n{level}.safetensors", {"noise": str(level)})
    scratch = initialize_weights(SRCNN(), torch.Generator().manual_seed(7))
    if not load(scratch, folder / "scratch.safetensors"):
        train(scratch, 60, count(2500), 1e-3, batch=BATCH_SIZE, side=PATCH_SIDE_PX, seed=7)
        write(scratch, folder / "scratch.safetensors", {"noise": "60"})
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, torch {torch.__version__}")


if __name__ == "__main__":
    main()

"""Patches: what a training step sees, drawn from the training photographs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.photographs import TRAIN_PHOTOGRAPHS, photograph, resize_image


def training_images(
    names: tuple[str, ...] = TRAIN_PHOTOGRAPHS, scales: tuple[float, ...] = (1.0, 0.7)
) -> list[NDArray[np.uint8]]:
    """The images of TRAIN_PHOTOGRAPHS, each at every one of `scales`: more scales of texture. uint8 (H, W, 3) each."""
    images = []
    for scale in scales:
        for name in names:
            pixels = photograph(name)
            height, width = pixels.shape[:2]
            images.append(pixels if scale == 1.0 else resize_image(pixels, round(width * scale), round(height * scale)))
    return images


def draw_patches(images: list[NDArray[np.uint8]], rng: np.random.Generator, batch: int, side: int) -> Tensor:
    """float32 (batch, 3, side, side) in [0, 1]: random places, flips, quarter turns and channel orders."""
    patches = []
    for index in rng.integers(len(images), size=batch):
        image = images[index]
        top, left = (int(rng.integers(size - side + 1)) for size in image.shape[:2])
        patch = np.rot90(image[top : top + side, left : left + side], int(rng.integers(4)))
        if rng.integers(2):
            patch = patch[:, ::-1]
        patches.append(patch[..., rng.permutation(3)].transpose(2, 0, 1))
    return torch.from_numpy(np.stack(patches)).float() / 255

"""Photographs: the images that ship inside scikit-image, those to train on and those to test on kept apart."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

TRAIN_PHOTOGRAPHS = (
    "coffee", "rocket", "retina", "immunohistochemistry", "hubble_deep_field",
    "brick", "gravel", "grass", "coins", "moon", "page", "text", "clock", "motorcycle_left", "motorcycle_right",
)  # fmt: skip
"""What trainings may see. The last two are the views of scikit-image's stereo pair."""

TEST_PHOTOGRAPHS = ("astronaut", "chelsea", "camera")
"""What no training may see; every figure is measured on these."""

TEXTURE_PHOTOGRAPHS = ("brick", "gravel", "grass")
"""Of TRAIN_PHOTOGRAPHS, those that are one texture: the styles of the style families."""


@cache
def photograph(name: str) -> NDArray[np.uint8]:
    """One image, (H, W, 3), read-only; a gray one is repeated over the channels. Raises KeyError if neither list has it."""
    if name not in (*TRAIN_PHOTOGRAPHS, *TEST_PHOTOGRAPHS):
        raise KeyError(f"{name!r} is neither in TRAIN nor in TEST")
    if name.startswith("motorcycle"):
        pixels = data.stereo_motorcycle()[name.endswith("right")]
    else:
        pixels = getattr(data, name)()
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    pixels = np.ascontiguousarray(pixels[..., :3], dtype=np.uint8)
    pixels.flags.writeable = False
    return pixels


def middle(name: str, side: int = 256) -> NDArray[np.uint8]:
    """The middle `side` x `side` pixels of an image, (side, side, 3)."""
    pixels = photograph(name)
    top, left = ((size - side) // 2 for size in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def resize_image(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Antialiased bicubic, as PIL and MATLAB do it: the degradation of the x4 benchmarks."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def add_noise(pixels: NDArray[np.uint8], level: float, seed: int = 1) -> NDArray[np.uint8]:
    """With Gaussian noise of sigma `level` of 255, clipped and rounded as an image file has it."""
    noise = np.random.default_rng(seed).normal(0.0, level, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)

"""The photographs that ship with scikit-image, split into a training and a test set."""

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
"""The training set. The last two are the views of scikit-image's stereo pair."""

TEST_PHOTOGRAPHS = ("astronaut", "chelsea", "camera")
"""The test set, not used for any training; every figure is measured on these."""

TEXTURE_PHOTOGRAPHS = ("brick", "gravel", "grass")
"""The members of TRAIN_PHOTOGRAPHS that show a single texture."""


@cache
def photograph(name: str) -> NDArray[np.uint8]:
    """Loads a photograph, uint8 (H, W, 3), read-only, gray repeated over the channels; KeyError if it is in neither set."""
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
    """Crops the center of a photograph, (side, side, 3)."""
    pixels = photograph(name)
    top, left = ((size - side) // 2 for size in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def resize_image(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resizes with antialiased bicubic, as PIL and MATLAB do: the degradation of the x4 benchmarks."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def add_noise(pixels: NDArray[np.uint8], level: float, seed: int = 1) -> NDArray[np.uint8]:
    """Adds Gaussian noise of sigma `level` (of 255), clipped and rounded as in an image file."""
    noise = np.random.default_rng(seed).normal(0.0, level, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)

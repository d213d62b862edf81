"""A test frame with detail at every scale of an image metric."""

from __future__ import annotations

import numpy as np

from dni_deploy.imaging.frames import Frame


def make_noisy_ramp(seed: int = 0, height: int = 64, width: int = 48) -> Frame:
    """Makes a smooth ramp with noise: uint8 (height, width, 3)."""
    rows, columns = np.mgrid[:height, :width]
    ramp = np.stack([4 * columns, 3 * rows, 255 - 2 * rows], axis=2) % 256
    noise = np.random.default_rng(seed).normal(0, 12, ramp.shape)
    return np.clip(np.rint(ramp + noise), 0, 255).astype(np.uint8)

"""The formulas that the image-to-image family learns: dusk, and a shallow depth of field.

Pairs of day and night photographs cannot be shipped, so both are substitutes. `darken_to_night` is a parametric relighting:
less light, less color, a blue cast, and a warm glow around what was brightest. `blur_background` blurs what is not salient; there is
no depth map of the photographs, and saliency (frequency-tuned: Achanta et al., CVPR 2009) takes its place.
Images are float32 (N, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NIGHT_SATURATION, NIGHT_EXPOSURE, NIGHT_GAMMA = 0.45, 0.42, 1.25
NIGHT_COLOR_CAST = (0.62, 0.78, 1.3)
GLOW_STRENGTH, GLOW_COLOR, GLOW_THRESHOLD = 0.55, (1.0, 0.72, 0.3), 0.78
BACKGROUND_SIGMA_PX = 4.0
"""Standard deviation of the blur where nothing is salient, in pixels."""


def blur_images(images: Tensor, sigma: float) -> Tensor:
    """Blurs with a Gaussian, mirrored at the edges."""
    reach = int(3 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    padded = functional.pad(images, (reach,) * 4, mode="reflect")
    across = functional.conv2d(padded, kernel[:, :, None, :], groups=images.shape[1])
    return functional.conv2d(across, kernel[:, :, :, None], groups=images.shape[1])


def darken_to_night(images: Tensor) -> Tensor:
    """Relights the scene as after dusk."""
    gray = images.mean(1, keepdim=True)
    muted = gray + NIGHT_SATURATION * (images - gray)
    dark = NIGHT_EXPOSURE * muted**NIGHT_GAMMA * torch.tensor(NIGHT_COLOR_CAST)[:, None, None]
    bright = ((gray - GLOW_THRESHOLD) / (1 - GLOW_THRESHOLD)).clamp(0, 1)
    return (dark + GLOW_STRENGTH * (0.6 * bright + blur_images(bright, 3.0)) * torch.tensor(GLOW_COLOR)[:, None, None]).clamp(
        0, 1
    )


def saliency(images: Tensor) -> Tensor:
    """Returns the smoothed distance of each pixel from the image's mean color, (N, 1, H, W) in [0, 1]; 1 stays sharp."""
    away = (blur_images(images, 1.5) - images.mean((2, 3), keepdim=True)).norm(dim=1, keepdim=True)
    relative = blur_images(away / (away.mean((2, 3), keepdim=True) + 1e-3), 5.0)
    rise = ((relative - 0.7) / 0.8).clamp(0, 1)
    return rise * rise * (3 - 2 * rise)


def blur_background(images: Tensor) -> Tensor:
    """Blurs everything but the salient parts."""
    mask = saliency(images)
    return mask * images + (1 - mask) * blur_images(images, BACKGROUND_SIGMA_PX)

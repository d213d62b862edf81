"""Scenes: what the image-to-image family learns, as formulas: dusk over a photograph, and a shallow depth of field.

No pairs of day and night photographs may be shipped here, so both are honest stand-ins. `night` is a parametric relighting:
less light, less colour, a blue cast, and a warm glow around what was brightest. `shallow` blurs what is not salient; there is
no depth map of the photographs, and saliency (frequency-tuned: Achanta et al., CVPR 2009) takes its place.
Pictures are float32 (N, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

COLOUR_KEPT, EXPOSURE, GAMMA = 0.45, 0.42, 1.25
CAST = (0.62, 0.78, 1.3)
GLOW, GLOW_COLOUR, GLOW_FROM = 0.55, (1.0, 0.72, 0.3), 0.78
BLUR = 4.0
"""Standard deviation of the blur where nothing is salient, in pixels."""


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """Gaussian, mirrored at the edges."""
    reach = int(3 * sigma + 0.5)
    places = torch.arange(-reach, reach + 1, dtype=pictures.dtype)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(pictures.shape[1], 1, -1)
    padded = functional.pad(pictures, (reach,) * 4, mode="reflect")
    across = functional.conv2d(padded, kernel[:, :, None, :], groups=pictures.shape[1])
    return functional.conv2d(across, kernel[:, :, :, None], groups=pictures.shape[1])


def night(pictures: Tensor) -> Tensor:
    """The same scene after dusk."""
    grey = pictures.mean(1, keepdim=True)
    muted = grey + COLOUR_KEPT * (pictures - grey)
    dark = EXPOSURE * muted**GAMMA * torch.tensor(CAST)[:, None, None]
    bright = ((grey - GLOW_FROM) / (1 - GLOW_FROM)).clamp(0, 1)
    return (dark + GLOW * (0.6 * bright + blurred(bright, 3.0)) * torch.tensor(GLOW_COLOUR)[:, None, None]).clamp(0, 1)


def saliency(pictures: Tensor) -> Tensor:
    """How much each place differs from its picture's mean colour, smoothed, (N, 1, H, W) in [0, 1]; 1 stays sharp."""
    away = (blurred(pictures, 1.5) - pictures.mean((2, 3), keepdim=True)).norm(dim=1, keepdim=True)
    relative = blurred(away / (away.mean((2, 3), keepdim=True) + 1e-3), 5.0)
    rise = ((relative - 0.7) / 0.8).clamp(0, 1)
    return rise * rise * (3 - 2 * rise)


def shallow(pictures: Tensor) -> Tensor:
    """The salient parts sharp, the rest out of focus."""
    mask = saliency(pictures)
    return mask * pictures + (1 - mask) * blurred(pictures, BLUR)

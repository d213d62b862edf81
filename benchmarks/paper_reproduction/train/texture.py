"""Texture: how far an image's patches are from a style's, without a pretrained network.

Sliced Wasserstein: patches of several scales are projected on random directions, and the sorted projections of image and
style are compared (Elnekave and Weiss, CVPR 2022, do so for synthesis; Heitz et al., CVPR 2021, on VGG's features).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SCALE_COUNT = 3
"""Scales: the image, a half and a quarter of it; a patch of 7 then reaches over 28 pixels."""

PATCH_SIDE_PX, PATCH_DIRECTIONS = 7, 256
COLOR_DIRECTIONS = 64

RANK_COUNT = 1024
"""Points of a style's distribution that are kept for each direction."""


@dataclass(frozen=True)
class Projections:
    """Random directions of one patch size, and how a style is distributed along each.

    filters (F, 3, p, p), of unit norm; targets (F, RANK_COUNT), ascending.
    """

    filters: Tensor
    targets: Tensor

    @classmethod
    def of(cls, style: Tensor, count: int, size: int, generator: torch.Generator) -> Projections:
        filters = torch.randn(count, 3, size, size, generator=generator)
        filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
        return cls(filters, _ranks(functional.conv2d(style, filters).flatten(2)[0], RANK_COUNT))

    def distance(self, images: Tensor, chosen: Tensor, stride: int = 1) -> Tensor:
        """Mean over images and the chosen directions of the distance between the sorted projections; a scalar."""
        projected = functional.conv2d(images, self.filters[chosen], stride=stride).flatten(2)
        return (_ranks(projected, projected.shape[2]) - _ranks(self.targets[chosen], projected.shape[2])).abs().mean()


def _ranks(values: Tensor, count: int) -> Tensor:
    """`count` equally spaced ranks of the last axis, ascending."""
    ordered = values.sort(dim=-1).values
    positions = torch.linspace(0, ordered.shape[-1] - 1, count).round().long()
    return ordered if count == ordered.shape[-1] else ordered[..., positions]


class StyleDistance:
    """The texture loss to one style image (1, 3, H, W) in [0, 1]; each call draws `directions` of every level anew."""

    def __init__(self, style: Tensor, seed: int, directions: int = 32) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._directions = directions
        self._color_projections = Projections.of(style, COLOR_DIRECTIONS, 1, self._generator)
        self._levels = []
        for level in range(SCALE_COUNT):
            smaller = functional.avg_pool2d(style, 2**level) if level else style
            self._levels.append(Projections.of(smaller, PATCH_DIRECTIONS, PATCH_SIDE_PX, self._generator))

    def __call__(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [0, 1] -> a scalar: twice the colors' distance and each level's."""
        total = 2.0 * self._color_projections.distance(images, self._draw(COLOR_DIRECTIONS, 8), 2)
        for level, projections in enumerate(self._levels):
            if level:
                images = functional.avg_pool2d(images, 2)
            total = total + projections.distance(images, self._draw(PATCH_DIRECTIONS, self._directions), 1 if level else 2)
        return total

    def _draw(self, of: int, count: int) -> Tensor:
        return torch.randperm(of, generator=self._generator)[:count]


def structure(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the structure that a style must keep: luminance at a half and a quarter of the size, standardized for each image."""
    gray = functional.avg_pool2d(images.mean(1, keepdim=True), 2)
    levels = []
    for _ in range(2):
        deviation, mean = torch.std_mean(gray, (2, 3), keepdim=True)
        levels.append((gray - mean) / (deviation + 0.05))
        gray = functional.avg_pool2d(gray, 2)
    return levels[0], levels[1]

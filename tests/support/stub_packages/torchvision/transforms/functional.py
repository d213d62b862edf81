"""The functions of torchvision.transforms.functional that spandrel uses: one for RestoreFormer, the rest for LaMa."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class InterpolationMode:
    """Enum members named as in torchvision: enough for default arguments."""

    NEAREST, BILINEAR, BICUBIC = "nearest", "bilinear", "bicubic"


def normalize(image: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Subtracts a mean and divides by a deviation for each channel."""
    return (image - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def rotate(*arguments: object, **options: object) -> None:
    """Not needed here."""
    raise NotImplementedError("this needs torchvision")

"""The part of torchvision.transforms that spandrel uses."""

from __future__ import annotations

from torchvision.transforms import functional

__all__ = ["functional"]

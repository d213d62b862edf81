"""HVI-CIDNet's color transform in a form that can be traced: spandrel's assigns at places that depend on the pixels."""

from __future__ import annotations

from math import pi

import torch
from spandrel.architectures.HVICIDNet.__arch.HVI_transform import RGB_HVI
from torch import Tensor

EPS = 1e-8
"""What the network was trained with."""


class TraceableTransform(RGB_HVI):  # type: ignore[misc]  # spandrel is not installed where this is checked
    """The same function of the same weight, by a choice at every pixel."""

    def HVIT(self, img: Tensor) -> Tensor:
        """RGB to HVI, float (N, 3, H, W)."""
        red, green, blue = img.unbind(1)
        value, least = img.amax(1), img.amin(1)
        spread = value - least + EPS
        hue = torch.where(blue == value, 4.0 + (red - green) / spread, 0.0)
        hue = torch.where(green == value, 2.0 + (blue - red) / spread, hue)
        hue = torch.where(red == value, (green - blue) / spread % 6, hue)
        hue = torch.where(least == value, 0.0, hue) / 6.0
        saturation = torch.where(value == 0, 0.0, (value - least) / (value + EPS))
        radius = self._measure_radius(value) * saturation
        return torch.stack([radius * (2.0 * pi * hue).cos(), radius * (2.0 * pi * hue).sin(), value], dim=1)

    def PHVIT(self, img: Tensor) -> Tensor:
        """HVI to RGB, float (N, 3, H, W)."""
        horizontal, vertical, value = img[:, 0].clamp(-1, 1), img[:, 1].clamp(-1, 1), img[:, 2].clamp(0, 1)
        radius = self._measure_radius(value) + EPS
        horizontal, vertical = (horizontal / radius).clamp(-1, 1), (vertical / radius).clamp(-1, 1)
        hue = torch.atan2(vertical, horizontal) / (2 * pi) % 1
        saturation = torch.sqrt(horizontal**2 + vertical**2).clamp(0, 1)
        sector = torch.floor(hue * 6.0)
        rest = hue * 6.0 - sector
        p, q, t = value * (1 - saturation), value * (1 - rest * saturation), value * (1 - (1 - rest) * saturation)
        colors = ((value, q, p, p, t, value), (t, value, value, q, p, p), (p, p, t, value, value, q))
        return torch.stack([self._choose(sector, choices) for choices in colors], dim=1)

    def _measure_radius(self, value: Tensor) -> Tensor:
        return ((value * 0.5 * pi).sin() + EPS).pow(self.density_k)

    @staticmethod
    def _choose(sector: Tensor, choices: tuple[Tensor, ...]) -> Tensor:
        chosen = torch.zeros_like(sector)  # of a hue that is rounded to a full turn, as in spandrel
        for number, choice in enumerate(choices):
            chosen = torch.where(sector == number, choice, chosen)
        return chosen

"""Probes: the small inputs on which a family is tried, and the right answer where one is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.errors import MismatchError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.signature import Signature

SIDE = 96
"""Height and width of a probe: several times the reach of the networks that are run on it, and quick on a CPU."""
NOISE = (20, 40, 60)
"""Sigma, of 255, of the noise that is given to networks that restore pictures: the paper's first, middle and last level."""
LATENTS = 16
"""Points that a generator is tried at."""
RESTORES = 0.01
"""Mean squared error, in parts of the squared value range (20 dB), up to which a network's output is still its input."""


@dataclass(frozen=True)
class Probe:
    """One input.

    name       of the picture, and what was done to it.
    x          float32 (N, C, H, W) in the network's own range.
    reference  float32 (N, C', H', W'): what the network should make of it; None where nobody knows.
    """

    name: str
    x: NDArray[np.float32]
    reference: NDArray[np.float32] | None = None


def probes(
    signature: Signature, pictures: Sequence[tuple[str, Frame]], references: Sequence[Frame] | None = None
) -> list[Probe]:
    """One for each picture, its middle; a generator is tried on seeded noise and needs none.

    references  the right outputs, one for each picture, `scale` times its size. Without them a picture is itself the right output
                of a network that enlarges, and goes in reduced.
    Raises MismatchError where the counts or sizes differ.
    """
    if signature.kind == "latent":
        shape = (LATENTS, signature.input_channels, 1, 1)
        return [Probe("seeded noise", np.random.default_rng(0).standard_normal(shape).astype(np.float32))]
    if references is not None and len(references) != len(pictures):
        raise MismatchError(
            f"{len(pictures)} pictures and {len(references)} references were given; each picture needs its own, in one order."
        )
    if references is None:
        return [_alone(signature, name, rgb) for name, rgb in pictures]
    return [_pair(signature, name, rgb, clean) for (name, rgb), clean in zip(pictures, references, strict=True)]


def noisy(probe: Probe, signature: Signature, sigma: int) -> Probe:
    """The probe with Gaussian noise of that sigma of 255, cut to the value range; what it was without is the right answer."""
    span = signature.high - signature.low
    noise = np.random.default_rng(sigma).standard_normal(probe.x.shape) * (sigma / 255 * span)
    x = np.clip(probe.x + noise, signature.low, signature.high).astype(np.float32)
    return replace(probe, name=f"{probe.name}, noise {sigma}", x=x, reference=probe.x)


def restores(signature: Signature, x: NDArray[np.float32], outputs: Sequence[NDArray[np.float32]]) -> bool:
    """Whether the outputs are the input again, more or less: then the network is one for damaged pictures, and can be tried on some."""
    span = signature.high - signature.low
    return signature.kind == "image" and all(
        y.shape == x.shape and float(np.mean(np.square((y - x) / span, dtype=np.float64))) < RESTORES for y in outputs
    )


def drawn(side: int = SIDE) -> Frame:
    """A picture with slopes, edges, stripes and grain, uint8 (side, side, 3); always the same."""
    y, x = np.mgrid[0:side, 0:side] / side
    planes = np.stack([x, y, (x + y) / 2], axis=-1) * 0.6 + 0.2
    planes[(x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.06] = (0.85, 0.3, 0.2)
    planes[(x > 0.55) & (y > 0.5) & (np.floor(x * 24) % 2 == 0)] *= 0.35
    planes += np.random.default_rng(0).normal(0, 0.04, planes.shape) * (y > 0.75)[..., None]
    return np.asarray(np.clip(np.rint(planes * 255), 0, 255), np.uint8)


def _alone(signature: Signature, name: str, rgb: Frame) -> Probe:
    scale, step = signature.scale, signature.multiple
    enlarges = scale > 1 and signature.input_channels == signature.output_channels
    height, width = _size(rgb, step * scale if enlarges else step, SIDE * (2 if enlarges else 1))
    part = _middle(rgb, height, width)
    if not enlarges:
        return Probe(name, _planes(part, signature, signature.input_channels))
    small = Image.fromarray(part).resize((width // scale, height // scale), Image.Resampling.BICUBIC)
    reduced = np.asarray(small, np.uint8)
    x, reference = (_planes(pixels, signature, signature.input_channels) for pixels in (reduced, part))
    return Probe(f"{name}, reduced by {scale}", x, reference)


def _pair(signature: Signature, name: str, rgb: Frame, clean: Frame) -> Probe:
    scale = signature.scale
    wanted = (rgb.shape[0] * scale, rgb.shape[1] * scale)
    if clean.shape[:2] != wanted:
        raise MismatchError(
            f"The reference for {shown(name)} is {clean.shape[1]}x{clean.shape[0]}; the network makes {wanted[1]}x{wanted[0]} of "
            f"{rgb.shape[1]}x{rgb.shape[0]}. Give one of that size."
        )
    height, width = _size(rgb, signature.multiple, SIDE)
    top, left = (max((have - want) // 2, 0) for have, want in zip(rgb.shape[:2], (height, width), strict=True))
    if rgb.shape[0] < height or rgb.shape[1] < width:
        raise MismatchError(
            f"{shown(name)} is {rgb.shape[1]}x{rgb.shape[0]}; with a reference at least {width}x{height} are needed."
        )
    inside = clean[top * scale :, left * scale :][: height * scale, : width * scale]
    return Probe(
        name,
        _planes(rgb[top:, left:][:height, :width], signature, signature.input_channels),
        _planes(inside, signature, signature.output_channels),
    )


def _size(rgb: Frame, step: int, side: int) -> tuple[int, int]:
    height, width = (min(size, max(side, step)) // step * step or step for size in rgb.shape[:2])
    return height, width


def _middle(rgb: Frame, height: int, width: int) -> Frame:
    if rgb.shape[0] < height or rgb.shape[1] < width:
        rows, columns = -(-height // rgb.shape[0]), -(-width // rgb.shape[1])
        return np.ascontiguousarray(np.tile(rgb, (rows, columns, 1))[:height, :width])
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    return np.ascontiguousarray(rgb[top:, left:][:height, :width])


def _planes(rgb: Frame, signature: Signature, channels: int) -> NDArray[np.float32]:
    planes = rgb.astype(np.float32).transpose(2, 0, 1) / 255
    planes = planes.mean(axis=0, keepdims=True) if channels == 1 else planes[np.arange(channels) % 3]
    return np.ascontiguousarray((planes * (signature.high - signature.low) + signature.low)[None], np.float32)

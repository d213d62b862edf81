"""Probes: the small inputs on which a family is tried, and the right answer where one is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.errors import MismatchError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.signature import Signature

TEST_SIDE_PX = 96
"""Height and width of a probe: several times the reach of the networks that are run on it, and quick on a CPU."""
TEST_NOISE_SIGMAS = (20, 40, 60)
"""Sigma, of 255, of the noise that is given to networks that restore pictures: the paper's first, middle and last level."""
LATENT_COUNT = 16
"""Points that a generator is tried at."""
MAX_RESTORATION_MSE = 0.01
"""Mean squared error, in parts of the squared value range (20 dB), up to which a network's output is still its input."""


@dataclass(frozen=True)
class SampleInput:
    """One input.

    name       of the picture, and what was done to it.
    x          float32 (N, C, H, W) in the network's own range.
    reference  float32 (N, C', H', W'): what the network should make of it; None where nobody knows.
    """

    name: str
    x: NDArray[np.float32]
    reference: NDArray[np.float32] | None = None


def make_sample_inputs(
    signature: Signature, pictures: Sequence[tuple[str, Frame]], references: Sequence[Frame] | None = None
) -> list[SampleInput]:
    """One for each picture, its middle; a generator is tried on seeded noise and needs none.

    references  the right outputs, one for each picture, `scale` times its size. Without them a picture is itself the right output
                of a network that enlarges, and goes in reduced.
    Raises MismatchError where the counts or sizes differ.
    """
    if signature.kind == "latent":
        shape = (LATENT_COUNT, signature.input_channels, 1, 1)
        return [SampleInput("seeded noise", np.random.default_rng(0).standard_normal(shape).astype(np.float32))]
    if references is not None and len(references) != len(pictures):
        raise MismatchError(
            f"{len(pictures)} pictures and {len(references)} references were given; each picture needs its own, in one order."
        )
    if references is None:
        return [_make_without_reference(signature, name, rgb) for name, rgb in pictures]
    return [_make_with_reference(signature, name, rgb, clean) for (name, rgb), clean in zip(pictures, references, strict=True)]


def add_noise(sample_input: SampleInput, signature: Signature, sigma: int) -> SampleInput:
    """The probe with Gaussian noise of that sigma of 255, cut to the value range; what it was without is the right answer."""
    span = signature.high - signature.low
    noise = np.random.default_rng(sigma).standard_normal(sample_input.x.shape) * (sigma / 255 * span)
    x = np.clip(sample_input.x + noise, signature.low, signature.high).astype(np.float32)
    return replace(sample_input, name=f"{sample_input.name}, noise {sigma}", x=x, reference=sample_input.x)


def is_restoration_network(signature: Signature, x: NDArray[np.float32], outputs: Sequence[NDArray[np.float32]]) -> bool:
    """Whether the outputs are the input again, more or less: then the network is one for damaged pictures, and can be tried on some."""
    span = signature.high - signature.low
    return signature.kind == "image" and all(
        y.shape == x.shape and float(np.mean(np.square((y - x) / span, dtype=np.float64))) < MAX_RESTORATION_MSE
        for y in outputs
    )


def draw_test_image(side: int = TEST_SIDE_PX) -> Frame:
    """A picture with slopes, edges, stripes and grain, uint8 (side, side, 3); always the same."""
    y, x = np.mgrid[0:side, 0:side] / side
    planes = np.stack([x, y, (x + y) / 2], axis=-1) * 0.6 + 0.2
    planes[(x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.06] = (0.85, 0.3, 0.2)
    planes[(x > 0.55) & (y > 0.5) & (np.floor(x * 24) % 2 == 0)] *= 0.35
    planes += np.random.default_rng(0).normal(0, 0.04, planes.shape) * (y > 0.75)[..., None]
    return np.asarray(np.clip(np.rint(planes * 255), 0, 255), np.uint8)


def _make_without_reference(signature: Signature, name: str, rgb: Frame) -> SampleInput:
    scale, step = signature.scale, signature.multiple
    enlarges = scale > 1 and signature.input_channels == signature.output_channels
    height, width = _choose_size(rgb, step * scale if enlarges else step, TEST_SIDE_PX * (2 if enlarges else 1))
    part = _crop_center(rgb, height, width)
    if not enlarges:
        return SampleInput(name, _to_network_input(part, signature, signature.input_channels))
    small = Image.fromarray(part).resize((width // scale, height // scale), Image.Resampling.BICUBIC)
    reduced = np.asarray(small, np.uint8)
    x, reference = (_to_network_input(pixels, signature, signature.input_channels) for pixels in (reduced, part))
    return SampleInput(f"{name}, reduced by {scale}", x, reference)


def _make_with_reference(signature: Signature, name: str, rgb: Frame, reference: Frame) -> SampleInput:
    scale = signature.scale
    wanted = (rgb.shape[0] * scale, rgb.shape[1] * scale)
    if reference.shape[:2] != wanted:
        raise MismatchError(
            f"The reference for {escape_name(name)} is {reference.shape[1]}x{reference.shape[0]}; the network makes {wanted[1]}x{wanted[0]} of "
            f"{rgb.shape[1]}x{rgb.shape[0]}. Give one of that size."
        )
    height, width = _choose_size(rgb, signature.multiple, TEST_SIDE_PX)
    top, left = (max((have - want) // 2, 0) for have, want in zip(rgb.shape[:2], (height, width), strict=True))
    if rgb.shape[0] < height or rgb.shape[1] < width:
        raise MismatchError(
            f"{escape_name(name)} is {rgb.shape[1]}x{rgb.shape[0]}; with a reference at least {width}x{height} are needed."
        )
    inside = reference[top * scale :, left * scale :][: height * scale, : width * scale]
    return SampleInput(
        name,
        _to_network_input(rgb[top:, left:][:height, :width], signature, signature.input_channels),
        _to_network_input(inside, signature, signature.output_channels),
    )


def _choose_size(rgb: Frame, step: int, side: int) -> tuple[int, int]:
    height, width = (min(size, max(side, step)) // step * step or step for size in rgb.shape[:2])
    return height, width


def _crop_center(rgb: Frame, height: int, width: int) -> Frame:
    if rgb.shape[0] < height or rgb.shape[1] < width:
        rows, columns = -(-height // rgb.shape[0]), -(-width // rgb.shape[1])
        return np.ascontiguousarray(np.tile(rgb, (rows, columns, 1))[:height, :width])
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    return np.ascontiguousarray(rgb[top:, left:][:height, :width])


def _to_network_input(rgb: Frame, signature: Signature, channels: int) -> NDArray[np.float32]:
    planes = rgb.astype(np.float32).transpose(2, 0, 1) / 255
    planes = planes.mean(axis=0, keepdims=True) if channels == 1 else planes[np.arange(channels) % 3]
    return np.ascontiguousarray((planes * (signature.high - signature.low) + signature.low)[None], np.float32)

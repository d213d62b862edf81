"""The small inputs on which a family is run, and the right output where one is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.errors import MismatchError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.signature import Signature

TEST_SIDE_PX = 128
"""Height and width of an input: several times the receptive field of the networks that are run on it, and quick on a CPU. Public
pairs lose up to half a decibel more or less on 96 pixels than on 192."""
TEST_NOISE_SIGMAS = (10, 30, 60)
"""Sigma, of 255, of the noise that is given to networks that restore images, from little to the most of the paper."""
MAX_NOISY_IMAGES = 4
"""Test images, the first ones, to which noise is added."""
LATENT_COUNT = 16
"""Points at which a generator is run."""
MAX_RESTORATION_MSE = 0.01
"""Mean squared error, in parts of the squared value range (20 dB), up to which a network's output is still its input."""


@dataclass(frozen=True)
class SampleInput:
    """One input.

    Attributes:
        name: Of the image, and what was done to it.
        x: float32 (N, C, H, W) in the network's own range.
        reference: float32 (N, C', H', W'), what the network should make of it; None where nobody knows.
        noise: Sigma, of 255, of the noise that was added; 0 without.
    """

    name: str
    x: NDArray[np.float32]
    reference: NDArray[np.float32] | None = None
    noise: int = 0


def make_sample_inputs(
    signature: Signature, images: Sequence[tuple[str, Frame]], references: Sequence[Frame] | None = None
) -> list[SampleInput]:
    """Makes an input of the middle of each image; a generator is run on seeded noise and needs none.

    Args:
        signature: The network's.
        images: Names and frames, uint8 (H, W, 3).
        references: The right outputs, one for each image, `scale` times its size. Without them an image is itself the right
            output of a network that enlarges, and goes in reduced.

    Raises:
        MismatchError: The counts or sizes differ.
    """
    if signature.kind == "latent":
        shape = (LATENT_COUNT, signature.input_channels, 1, 1)
        return [SampleInput("seeded noise", np.random.default_rng(0).standard_normal(shape).astype(np.float32))]
    if references is None:
        return [_make_without_reference(signature, name, rgb) for name, rgb in images]
    if len(references) != len(images):
        raise MismatchError(
            f"{len(images)} images and {len(references)} references were given; each image needs its own, in one order."
        )
    return [_make_with_reference(signature, name, rgb, clean) for (name, rgb), clean in zip(images, references, strict=True)]


def add_noise(sample_input: SampleInput, signature: Signature, sigma: int) -> SampleInput:
    """Adds seeded Gaussian noise, clipped to the value range; the input without it is the right output.

    Args:
        sample_input: The clean input; not changed.
        signature: The network's.
        sigma: Standard deviation, of 255.
    """
    span = signature.high - signature.low
    noise = np.random.default_rng(sigma).standard_normal(sample_input.x.shape) * (sigma / 255 * span)
    x = np.clip(sample_input.x + noise, signature.low, signature.high).astype(np.float32)
    return replace(sample_input, name=f"{sample_input.name}, noise {sigma}", x=x, reference=sample_input.x, noise=sigma)


def is_restoration_network(signature: Signature, x: NDArray[np.float32], outputs: Sequence[NDArray[np.float32]]) -> bool:
    """Returns whether the outputs are nearly the input: then the network restores damaged images, and can be run on some."""
    span = signature.high - signature.low
    return signature.kind == "image" and all(
        y.shape == x.shape and float(np.mean(np.square((y - x) / span, dtype=np.float64))) < MAX_RESTORATION_MSE
        for y in outputs
    )


def _make_without_reference(signature: Signature, name: str, rgb: Frame) -> SampleInput:
    scale, multiple = signature.scale, signature.multiple
    enlarges = scale > 1 and signature.input_channels == signature.output_channels
    factor = scale if enlarges else 1
    height, width = _choose_size(rgb, multiple * factor, signature.round_up_side(1) * factor, TEST_SIDE_PX * min(factor, 2))
    part = _crop_center(rgb, height, width)
    if not enlarges:
        return SampleInput(name, _to_network_input(part, signature, signature.input_channels))
    small = Image.fromarray(part).resize((width // scale, height // scale), Image.Resampling.BICUBIC)
    x, reference = (
        _to_network_input(pixels, signature, signature.input_channels) for pixels in (np.asarray(small, np.uint8), part)
    )
    return SampleInput(f"{name}, reduced by {scale}", x, reference)


def _make_with_reference(signature: Signature, name: str, rgb: Frame, reference: Frame) -> SampleInput:
    scale = signature.scale
    output_size = (rgb.shape[0] * scale, rgb.shape[1] * scale)
    if reference.shape[:2] != output_size:
        raise MismatchError(
            f"The reference for {escape_name(name)} is {reference.shape[1]}x{reference.shape[0]}; the network makes "
            f"{output_size[1]}x{output_size[0]} of {rgb.shape[1]}x{rgb.shape[0]}. Give one of that size."
        )
    height, width = _choose_size(rgb, signature.multiple, signature.round_up_side(1), TEST_SIDE_PX)
    if rgb.shape[0] < height or rgb.shape[1] < width:
        raise MismatchError(
            f"{escape_name(name)} is {rgb.shape[1]}x{rgb.shape[0]}; with a reference at least {width}x{height} are needed."
        )
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    clean = reference[top * scale :, left * scale :][: height * scale, : width * scale]
    return SampleInput(
        name,
        _to_network_input(rgb[top:, left:][:height, :width], signature, signature.input_channels),
        _to_network_input(clean, signature, signature.output_channels),
    )


def _choose_size(rgb: Frame, multiple: int, least: int, side: int) -> tuple[int, int]:
    height, width = (max(min(size, max(side, least)) // multiple * multiple, least) for size in rgb.shape[:2])
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

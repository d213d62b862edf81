"""Frames: conversion to network inputs and from network outputs."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.errors import EngineError, MismatchError, UsageError
from dni_deploy.imaging.frames import from_network, pad_frame, to_network
from dni_deploy.signature import Signature


def random_frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


ALL_VALUES = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)


def test_pixels_become_their_value_divided_by_255() -> None:
    x = to_network(ALL_VALUES, Signature())
    assert x.dtype == np.float32
    assert x.shape == (1, 3, 1, 256)
    # Exactly the correctly rounded quotient, which is what PyTorch computes from uint8.
    assert np.array_equal(x[0, 0, 0], (np.arange(256) / np.float64(255)).astype(np.float32))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.5, 0.5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_identity_network_gives_every_value_back(low: float, high: float, channels: int) -> None:
    signature = Signature(channels, channels, low=low, high=high)
    frame = np.stack([ALL_VALUES[0], ALL_VALUES[0, ::-1]])
    frame[1, :, 1] = 7
    x = to_network(frame, signature)
    assert x.shape == ((1, 3, 2, 256) if channels == 3 else (3, 1, 2, 256))
    assert x.min() >= low
    assert x.max() <= high
    assert np.array_equal(from_network(x, frame, signature), frame)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (3, 2), (7, 5), (8, 8), (13, 17)])
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_padding_mirrors_and_is_cropped_again(height: int, width: int, multiple: int) -> None:
    signature = Signature(multiple=multiple)
    frame = random_frame(height, width)
    x = to_network(frame, signature)
    assert x.shape[2] % multiple == x.shape[3] % multiple == 0
    expected = frame.transpose(2, 0, 1)
    for axis, size in ((1, height), (2, width)):  # numpy's padding as the reference
        extra = -size % multiple
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (0, extra)
        expected = np.pad(expected, pad, mode="reflect" if extra < size else "edge")
    assert np.array_equal(np.rint(x[0] * 255).astype(np.uint8), expected)
    assert np.array_equal(to_network(pad_frame(frame, signature), signature), x)
    assert np.array_equal(from_network(x, frame, signature), frame)


def test_a_frame_below_the_minimum_is_padded_up_to_it_and_cropped() -> None:
    signature = Signature(minimum=10, multiple=4, scale=2)
    frame = random_frame(5, 30)
    x = to_network(frame, signature)
    assert x.shape == (1, 3, 12, 32)
    assert np.array_equal(x[0, :, 5:], np.broadcast_to(x[0, :, 4:5], (3, 7, 32)))  # too small to mirror
    y = x.repeat(2, axis=2).repeat(2, axis=3)
    assert np.array_equal(from_network(y, frame, signature), frame.repeat(2, axis=0).repeat(2, axis=1))


def test_scale_and_crop() -> None:
    signature = Signature(scale=4, multiple=4)
    frame = random_frame(5, 6)
    y = np.repeat(np.repeat(to_network(frame, signature), 4, axis=2), 4, axis=3)
    assert np.array_equal(from_network(y, frame, signature), frame.repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
def test_residual_is_subtracted(low: float, high: float) -> None:
    signature = Signature(residual=True, multiple=2, low=low, high=high)
    frame = random_frame(3, 5)
    x = to_network(frame, signature)
    noise = np.full_like(x, 10 / 255 * (high - low))
    expected = np.clip(frame.astype(int) - 10, 0, 255).astype(np.uint8)
    assert np.array_equal(from_network(noise, frame, signature), expected)


def test_rounds_half_to_even_and_clamps() -> None:
    signature = Signature(low=0.0, high=255.0)
    frame = np.zeros((1, 6, 3), np.uint8)
    y = np.broadcast_to(np.array([0.5, 1.5, 2.5, 254.5, -3.0, 1e9], np.float32), (1, 3, 1, 6))
    assert from_network(y, frame, signature)[0, :, 0].tolist() == [0, 2, 2, 254, 0, 255]


@pytest.mark.parametrize("multiple", [1, 4, 16])
@pytest.mark.parametrize("residual", [False, True])
def test_a_float32_frame_is_neither_rounded_nor_clamped(residual: bool, multiple: int) -> None:
    """float64 by hand, for a network that halves; 1e-6 is a few units in the last place of float32."""
    signature = Signature(low=-1.0, residual=residual, multiple=multiple)
    frame = np.random.default_rng(0).uniform(-0.5, 1.5, (5, 7, 3)).astype(np.float32)
    x = to_network(frame, signature)
    assert x.shape == (1, 3, -(-5 // multiple) * multiple, -(-7 // multiple) * multiple)
    y = from_network(x * np.float32(0.5), frame, signature)
    assert y.dtype == np.float32
    value = frame.astype(np.float64) * 2 - 1
    assert np.abs(y - (frame - value / 2 / 2 if residual else (value / 2 + 1) / 2)).max() <= 1e-6


def test_a_uint16_frame_keeps_every_level() -> None:
    frame = np.arange(65536, dtype=np.uint16).reshape(256, 256)[..., None].repeat(3, axis=2)
    for signature in (Signature(), Signature(low=-1.0), Signature(1, 1)):
        out = from_network(to_network(frame, signature), frame, signature)
        assert out.dtype == np.uint16
        assert np.array_equal(out, frame)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_nan_output_is_an_error_and_not_a_black_frame(bad: float) -> None:
    frame = random_frame(4, 4)
    y = to_network(frame, Signature())
    y[0, 1, 2, 3] = bad
    with pytest.raises(EngineError, match="1 values of 48"):
        from_network(y, frame, Signature())


def test_wrong_output_shape_is_an_error() -> None:
    frame = random_frame(4, 4)
    with pytest.raises(EngineError, match=r"\(1, 3, 8, 8\) was expected"):
        from_network(to_network(frame, Signature()), frame, Signature(scale=2))


@pytest.mark.parametrize(
    "frame",
    [np.zeros((4, 4, 3), np.float64), *(np.zeros(shape, np.uint8) for shape in ((4, 4), (4, 4, 4), (0, 4, 3))), [1]],
)
def test_arrays_that_are_not_frames_are_refused(frame: object) -> None:
    with pytest.raises(UsageError, match=r"float32 array \(height, width, 3\)"):
        to_network(frame, Signature())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "signature", [Signature(kind="latent"), Signature(4, 3), Signature(1, 3), Signature(residual=True, scale=2)]
)
def test_networks_without_image_input_are_refused(signature: Signature) -> None:
    with pytest.raises(MismatchError):
        to_network(random_frame(4, 4), signature)

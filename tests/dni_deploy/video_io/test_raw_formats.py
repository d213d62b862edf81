"""Bare pixels: layouts, size notation, complete frames, and leftover bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import InputError, LimitError, PartialResultError, UsageError
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.video_io.raw_formats import PIXEL_LAYOUTS, PackedFormat, RawFrame, parse_rate, parse_size


@pytest.mark.parametrize(("text", "size"), [("640x360", (640, 360)), (" 1X1 ", (1, 1))])
def test_valid_sizes_are_parsed(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "640", "640x", "0x4", "4x0", "-4x4", "4x4x4", "4.0x4", "1e3x4", "٤x٤", "1" * 50])
def test_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not WIDTHxHEIGHT"):
        parse_size(text)


def test_sizes_over_the_limit_are_refused() -> None:
    with pytest.raises(LimitError, match="999999999x999999999"):
        parse_size("999999999x999999999")
    parse_size("5000x5000")
    with pytest.raises(LimitError, match="20000x20000"):
        parse_size("5000x5000", 4)


def read_frames(data: bytes) -> Iterator[RawFrame]:
    """Reads rgb24 of 6x4 pixels."""
    return PackedFormat(io.BytesIO(data), 1, "6x4").read()


def test_frames_are_read_in_order() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    assert np.array_equal([frame.rgb for frame in read_frames(frames.tobytes())], frames)
    assert list(read_frames(b"")) == []


@pytest.mark.parametrize("extra", [1, 71])
def test_incomplete_bytes_after_the_last_frame_are_reported(extra: int) -> None:
    frames = read_frames(bytes(2 * 72 + extra))
    assert [next(frames).rgb.shape for _ in range(2)] == [(4, 6, 3)] * 2
    with pytest.raises(PartialResultError, match=f"^{extra} bytes were left after 2 whole frames of 6x4"):
        next(frames)


def test_less_than_one_frame_is_an_error() -> None:
    with pytest.raises(InputError, match="5 bytes came, and one frame of 6x4 has 72"):
        list(read_frames(bytes(5)))


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("25", Fraction(25)),
        ("29.97", Fraction(2997, 100)),
        ("30000/1001", Fraction(30000, 1001)),
        ("24:1", Fraction(24)),
    ],
)
def test_valid_rates_are_parsed(text: str, rate: Fraction) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-25", "nan", "inf", "1/0", "25:", "1e99", "1e-99", "9" * 100])
def test_text_that_is_not_a_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a frame rate"):
        parse_rate(text)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("layout", PIXEL_LAYOUTS)
def test_pixels_and_transparency_come_back_as_they_were(layout: str, scale: int) -> None:
    channels, dtype = PIXEL_LAYOUTS[layout].channels, PIXEL_LAYOUTS[layout].dtype
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (4, 6, len(channels))).astype(dtype)
    raw_format = PackedFormat(io.BytesIO(pixels.tobytes()), scale, "6x4", layout)
    (frame,) = raw_format.read()
    assert frame.rgb.dtype == dtype.newbyteorder("=")
    rgb = pixels[..., [channels.index(color) if color in channels else 0 for color in "RGB"]]
    is_visible = np.ones((4, 6), bool) if frame.transparency is None else frame.transparency > 0
    assert np.array_equal(frame.rgb[is_visible], rgb[is_visible])
    assert (frame.transparency is None) == ("A" not in channels)
    output = rgb.astype(frame.rgb.dtype).repeat(scale, 0).repeat(scale, 1)
    encoded = raw_format.encode_frame(frame, RenderedFrame(output, 1, Coefficients.one_hot("a", ("a", "b"))))
    assert encoded.tobytes() == pixels.repeat(scale, 0).repeat(scale, 1).tobytes()


def test_gray_of_a_colored_output_is_its_luma() -> None:
    raw_format = PackedFormat(io.BytesIO(bytes(24)), 1, "6x4", "gray")
    (frame,) = raw_format.read()
    output = np.zeros((4, 6, 3), np.uint8)
    output[:] = (200, 100, 50)
    encoded = raw_format.encode_frame(frame, RenderedFrame(output, 1, Coefficients.one_hot("a", ("a", "b"))))
    assert set(encoded.tolist()) == {124}  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2


def test_colors_that_transparency_hides_do_not_reach_the_network() -> None:
    pixels = np.full((4, 6, 4), 200, np.uint8)
    pixels[:, 3:] = 0
    (frame,) = PackedFormat(io.BytesIO(pixels.tobytes()), 1, "6x4", "rgba").read()
    assert (frame.rgb == 200).all()

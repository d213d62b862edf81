"""Formats of raw video in a pipe: what one is, and rgb24, which is bare pixels. y4m has a module of its own, as it needs PyAV."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import InputError, LimitError, PartialResultError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import MAX_OUTPUT_PIXELS
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.video_io.pipe import ReadableFile, read_whole


@dataclass(frozen=True)
class RawFrame:
    """One frame on its way in: uint8 (H, W, 3), and what the stream said beside it."""

    rgb: Frame
    parameters: tuple[bytes, ...] = ()


class RawVideoFormat(Protocol):
    """`read` is used by one thread and `encode_frame` by one other.

    width, height   of the input.        scale   of the network: the output is that many times as wide and high.
    rate            frames per second; None where nobody says.
    notes           sentences on what was taken for granted.
    """

    width: int
    height: int
    scale: int
    rate: Fraction | None
    notes: tuple[str, ...]

    def encode_header(self) -> bytes:
        """What comes before the first frame."""
        ...

    def read(self) -> Iterator[RawFrame]:
        """The pictures, up to the end of the stream. Raises InputError, PartialResultError."""
        ...

    def encode_frame(self, frame: RawFrame, rendered: RenderedFrame) -> NDArray[np.uint8]:
        """The bytes of the output frame, uint8 (bytes,), in one piece."""
        ...


def parse_rate(text: str) -> Fraction:
    """Frames per second from "25", "29.97", "30000/1001" or "30000:1001". Raises UsageError."""
    try:
        rate = Fraction(text.strip().replace(":", "/")) if len(text) < 40 else Fraction(0)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not (0 < rate <= 10**6 and rate.denominator <= 10**9):
        raise UsageError(f"--fps {escape_name(text, 40)} is not a frame rate, such as 25, 29.97 or 30000/1001.")
    return rate


def parse_size(text: str, scale: int = 1) -> tuple[int, int]:
    """Width and height from "640x360". scale: of the network that will run.

    Raises UsageError (not WxH), LimitError (more than MAX_OUTPUT_PIXELS pixels of output).
    """
    match = re.fullmatch(r"([0-9]{1,9})[xX]([0-9]{1,9})", text.strip())
    if not match or not int(match[1]) or not int(match[2]):
        raise UsageError(f"--size {escape_name(text, 40)} is not WIDTHxHEIGHT, such as 640x360.")
    width, height = int(match[1]), int(match[2])
    if width * height * scale * scale > MAX_OUTPUT_PIXELS:
        raise LimitError(
            f"--size {width}x{height} would give {width * scale}x{height * scale} pixels a frame; the limit is {MAX_OUTPUT_PIXELS:,}."
        )
    return width, height


def read_rgb24_frames(source: ReadableFile, width: int, height: int) -> Iterator[Frame]:
    """The frames up to the end of the stream, fresh arrays.

    Raises PartialResultError where it ends inside a frame, InputError where that is the first.
    """
    count = 0
    while True:
        frame = np.empty((height, width, 3), np.uint8)
        came = read_whole(source, frame)
        if came == frame.size:
            yield frame
            count += 1
            continue
        if came and not count:
            raise InputError(f"{came} bytes came, and one frame of {width}x{height} has {frame.size}; see --size.")
        if came:
            raise PartialResultError(
                f"{came} bytes were left after {count} whole frames of {width}x{height}, which were passed on; "
                "the stream was cut, or --size is not its size."
            )
        return


class Rgb24Format:
    """As Lane says. size: "WIDTHxHEIGHT". Raises what parse_size does."""

    notes: tuple[str, ...] = ()

    def __init__(self, source: ReadableFile, scale: int, size: str, *, fps: Fraction | None = None) -> None:
        self.scale, self.rate, self._source = scale, fps, source
        self.width, self.height = parse_size(size, scale)

    def encode_header(self) -> bytes:
        return b""

    def read(self) -> Iterator[RawFrame]:
        return map(RawFrame, read_rgb24_frames(self._source, self.width, self.height))

    def encode_frame(self, frame: RawFrame, rendered: RenderedFrame) -> NDArray[np.uint8]:
        return rendered.output.reshape(-1)

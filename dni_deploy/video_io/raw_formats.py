"""What a format of raw video in a pipe is, and rgb24, which is bare pixels. y4m has its own module, as it needs PyAV."""

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
    """A frame that was read.

    Attributes:
        rgb: uint8 (H, W, 3).
        parameters: What the stream says beside the frame.
    """

    rgb: Frame
    parameters: tuple[bytes, ...] = ()


class RawVideoFormat(Protocol):
    """A stream of raw video, read and written in the same format.

    Attributes:
        width: Width of the input in pixels.
        height: Height of the input in pixels.
        scale: The output is that many times as wide and high.
        rate: Frames per second, or None where nobody says.
        notes: Sentences on what was assumed.

    Thread safety: One thread reads, and one other encodes.
    """

    width: int
    height: int
    scale: int
    rate: Fraction | None
    notes: tuple[str, ...]

    def encode_header(self) -> bytes:
        """Returns what comes before the first frame."""
        ...

    def read(self) -> Iterator[RawFrame]:
        """Reads the frames up to the end of the stream.

        Raises:
            InputError: The stream does not begin with a whole frame.
            PartialResultError: The stream ends inside a later frame, or something else follows a frame.
        """
        ...

    def encode_frame(self, frame: RawFrame, rendered: RenderedFrame) -> NDArray[np.uint8]:
        """Returns the bytes of the output frame, uint8 (bytes,)."""
        ...


def parse_rate(text: str) -> Fraction:
    """Parses frames per second, such as "25", "29.97", "30000/1001" or "30000:1001".

    Raises:
        UsageError: The text is not a frame rate.
    """
    try:
        rate = Fraction(text.strip().replace(":", "/")) if len(text) < 40 else Fraction(0)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not (0 < rate <= 10**6 and rate.denominator <= 10**9):
        raise UsageError(f"--fps {escape_name(text, 40)} is not a frame rate, such as 25, 29.97 or 30000/1001.")
    return rate


def parse_size(text: str, scale: int = 1) -> tuple[int, int]:
    """Parses width and height, such as "640x360".

    Args:
        text: The size.
        scale: Scale of the network that will run.

    Raises:
        UsageError: The text is not a size.
        LimitError: The output would have more than MAX_OUTPUT_PIXELS pixels.
    """
    match = re.fullmatch(r"([0-9]{1,9})[xX]([0-9]{1,9})", text.strip())
    if not match or not int(match[1]) or not int(match[2]):
        raise UsageError(f"--size {escape_name(text, 40)} is not WIDTHxHEIGHT, such as 640x360.")
    width, height = int(match[1]), int(match[2])
    if width * height * scale * scale > MAX_OUTPUT_PIXELS:
        raise LimitError(
            f"--size {width}x{height} would give {width * scale}x{height * scale} pixels a frame; "
            f"the limit is {MAX_OUTPUT_PIXELS:,}."
        )
    return width, height


class Rgb24Format:
    """Frames of bare RGB, one after the other; see RawVideoFormat."""

    notes: tuple[str, ...] = ()

    def __init__(self, source: ReadableFile, scale: int, size: str, *, fps: Fraction | None = None) -> None:
        """Prepares to read.

        Args:
            source: The stream.
            scale: Scale of the network.
            size: "WIDTHxHEIGHT" of the input.
            fps: Frames per second, if known.

        Raises:
            UsageError: The size is none.
            LimitError: The output would be too large.
        """
        self.scale, self.rate, self._source = scale, fps, source
        self.width, self.height = parse_size(size, scale)

    def encode_header(self) -> bytes:
        """Returns nothing: the format has no header."""
        return b""

    def read(self) -> Iterator[RawFrame]:
        """Reads the frames, as RawVideoFormat says."""
        count = 0
        while True:
            frame = np.empty((self.height, self.width, 3), np.uint8)
            size = read_whole(self._source, frame)
            if size == 0:
                return
            if size < frame.size and not count:
                raise InputError(
                    f"{size} bytes came, and one frame of {self.width}x{self.height} has {frame.size}; see --size."
                )
            if size < frame.size:
                raise PartialResultError(
                    f"{size} bytes were left after {count} whole frames of {self.width}x{self.height}, which were passed on; "
                    "the stream was cut, or --size is not its size."
                )
            yield RawFrame(frame)
            count += 1

    def encode_frame(self, frame: RawFrame, rendered: RenderedFrame) -> NDArray[np.uint8]:
        """Returns the pixels as they are."""
        return rendered.output.reshape(-1)

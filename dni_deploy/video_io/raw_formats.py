"""What a format of raw video in a pipe is, and those that are bare pixels. y4m has its own module, as it needs PyAV."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import InputError, LimitError, PartialResultError, UsageError, escape_name
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.imaging.image_file import MAX_OUTPUT_PIXELS
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.imaging.transparency import fill_hidden_colors
from dni_deploy.video_io.pipe import ReadableFile, read_whole


@dataclass(frozen=True)
class RawFrame:
    """A frame that was read.

    Attributes:
        rgb: uint8 or uint16 (H, W, 3); white is 255 or 65535.
        parameters: What the stream says beside the frame.
        transparency: (H, W), as it was read; None where the format has none.
    """

    rgb: AnyFrame
    parameters: tuple[bytes, ...] = ()
    transparency: NDArray[Any] | None = None


@dataclass(frozen=True)
class PixelLayout:
    """How the bytes of a pixel lie.

    Attributes:
        channels: One letter each, in their order: R, G, B; A for transparency; Y alone for gray.
        bits: Of one channel, 8 or 16; those of 16 are little-endian.
    """

    channels: str
    bits: int = 8

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a channel."""
        return np.dtype(np.uint8 if self.bits == 8 else "<u2")

    @property
    def rgb_order(self) -> list[int]:
        """Where red, green and blue are; three times 0 for gray."""
        return [self.channels.find(color) if color in self.channels else 0 for color in "RGB"]

    @property
    def transparency_index(self) -> int | None:
        """Where transparency is; None without."""
        return self.channels.index("A") if "A" in self.channels else None


PIXEL_LAYOUTS = {
    "rgb24": PixelLayout("RGB"),
    "bgr24": PixelLayout("BGR"),
    "rgba": PixelLayout("RGBA"),
    "bgra": PixelLayout("BGRA"),
    "gray": PixelLayout("Y"),
    "rgb48": PixelLayout("RGB", 16),
    "gray16": PixelLayout("Y", 16),
}
"""FFmpeg's name for a format of bare pixels -> how they lie; those of 16 bits are little-endian (rgb48le, gray16le)."""

GRAY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
"""Of red, green and blue in the gray of an output. Source: ITU-R BT.601-7, as in FFmpeg's conversion to gray."""


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


class PackedFormat:
    """Frames of bare pixels, one after the other; see RawVideoFormat."""

    notes: tuple[str, ...] = ()

    def __init__(
        self, source: ReadableFile, scale: int, size: str, layout: str = "rgb24", *, fps: Fraction | None = None
    ) -> None:
        """Prepares to read.

        Args:
            source: The stream.
            scale: Scale of the network.
            size: "WIDTHxHEIGHT" of the input.
            layout: One of PIXEL_LAYOUTS.
            fps: Frames per second, if known.

        Raises:
            UsageError: The size is none.
            LimitError: The output would be too large.
        """
        self.scale, self.rate, self._source = scale, fps, source
        self.width, self.height = parse_size(size, scale)
        self._layout = PIXEL_LAYOUTS[layout]

    def encode_header(self) -> bytes:
        """Returns nothing: the format has no header."""
        return b""

    def read(self) -> Iterator[RawFrame]:
        """Reads the frames, as RawVideoFormat says."""
        layout, count = self._layout, 0
        while True:
            pixels = np.empty((self.height, self.width, len(layout.channels)), layout.dtype)
            size = read_whole(self._source, pixels)
            if size == 0:
                return
            if size < pixels.nbytes and count == 0:
                raise InputError(
                    f"{size} bytes came, and one frame of {self.width}x{self.height} has {pixels.nbytes}; see --size."
                )
            if size < pixels.nbytes:
                raise PartialResultError(
                    f"{size} bytes were left after {count} whole frames of {self.width}x{self.height}, which were passed on; "
                    "the stream was cut, or --size is not its size."
                )
            native = pixels.astype(layout.dtype.newbyteorder("="), copy=False)
            index = layout.transparency_index
            rgb = native if layout.channels == "RGB" else np.ascontiguousarray(native[..., layout.rgb_order])
            transparency = None if index is None else native[..., index]
            yield RawFrame(rgb if transparency is None else fill_hidden_colors(rgb, transparency), transparency=transparency)
            count += 1

    def encode_frame(self, frame: RawFrame, rendered: RenderedFrame) -> NDArray[np.uint8]:
        """Returns the pixels in their order; transparency as it was read, each value `scale` times in both directions."""
        layout, output = self._layout, rendered.output
        if layout.channels == "RGB":
            pixels = output
        elif layout.channels == "Y":
            pixels = np.rint(output.astype(np.float32) @ GRAY_WEIGHTS)[..., None]
        else:
            pixels = np.empty((*output.shape[:2], len(layout.channels)), layout.dtype)
            pixels[..., layout.rgb_order] = output
            if frame.transparency is not None:
                pixels[..., layout.transparency_index] = frame.transparency.repeat(self.scale, 0).repeat(self.scale, 1)
        return np.ascontiguousarray(pixels, layout.dtype).view(np.uint8).reshape(-1)

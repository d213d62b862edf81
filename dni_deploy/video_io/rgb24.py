"""RGB24: bare frames of one size, three bytes a pixel, with nothing around them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import InputError, LimitError, PartialResultError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import MAX_OUTPUT_PIXELS
from dni_deploy.session.session import RenderedFrame
from dni_deploy.video_io.pipe import ReadableFile, read_whole
from dni_deploy.video_io.raw_formats import RawFrame


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

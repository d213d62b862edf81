"""YUV4MPEG2 streams (y4m): the header, the frames, and the raw video format that is made of them.

Source: yuv4mpeg(5) of mjpegtools; the extensions XCOLORRANGE and the 8-bit names of C are FFmpeg's (libavformat/yuv4mpegdec.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from dni_deploy.errors import InputError, LimitError, PartialResultError, UsageError, escape_name
from dni_deploy.imaging.image_limits import max_frame_pixels
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.video_io.color import (
    AVCOL_SPC_BT709,
    AVCOL_SPC_SMPTE170M,
    ColorConverter,
    ColorSpec,
    choose_matrix,
    component_bits,
    view_planes,
)
from dni_deploy.video_io.pipe import ReadableFile, read_line, read_whole
from dni_deploy.video_io.raw_formats import RawFrame

Y4M_MAGIC, Y4M_FRAME_TAG = b"YUV4MPEG2", b"FRAME"
MAX_HEADER_BYTES = 1024
"""Bytes of the first line; mjpegtools writes at most 256."""
MAX_FRAME_LINE_BYTES = 80
"""Bytes of a frame's line that every reader takes (FFmpeg, x264 and aom stop there)."""

PIXEL_FORMATS = {
    "420jpeg": "yuv420p",
    "420mpeg2": "yuv420p",
    "420paldv": "yuv420p",
    "420": "yuv420p",
    "422": "yuv422p",
    "444": "yuv444p",
    "mono": "gray",
    **{f"{chroma}p{bits}": f"yuv{chroma}p{bits}le" for chroma in ("420", "422", "444") for bits in (9, 10, 12, 14, 16)},
    **{f"mono{bits}": f"gray{bits}le" for bits in (9, 10, 12, 16)},
}
"""FFmpeg's format for each chroma token that is supported; samples of more than 8 bits are little-endian, of 2 bytes."""


@dataclass(frozen=True)
class Y4mHeader:
    """The first line of a stream.

    Attributes:
        width: Luma samples of a row.
        height: Rows of luma samples.
        chroma: One of PIXEL_FORMATS.
        full_range: Black and white are 0 and 255 (XCOLORRANGE=FULL) instead of 16 and 235.
        rate: Frames per second, or None where the stream does not say it.
        tokens: Every token but the magic, as read, in order.
    """

    width: int
    height: int
    chroma: str
    full_range: bool
    rate: Fraction | None
    tokens: tuple[bytes, ...]

    @property
    def plane_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each plane; an odd last column or row has its own chroma sample."""
        pixel_format = VideoFormat(PIXEL_FORMATS[self.chroma], self.width, self.height)
        return tuple((component.height, component.width) for component in pixel_format.components)

    @property
    def bits(self) -> int:
        """Bits of a sample."""
        return component_bits(VideoFormat(PIXEL_FORMATS[self.chroma]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a sample."""
        return np.dtype(np.uint8 if self.bits <= 8 else "<u2")

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame, without its line."""
        return sum(height * width for height, width in self.plane_sizes) * self.dtype.itemsize

    @property
    def is_interlaced(self) -> bool:
        """Whether the frames consist of two fields."""
        return any(token in (b"It", b"Ib", b"Im") for token in self.tokens)

    def scale_by(self, scale: int) -> Y4mHeader:
        """Returns the header of frames that are `scale` times as wide and high.

        Raises:
            LimitError: They have more pixels than `max_frame_pixels`.
        """
        width, height = self.width * scale, self.height * scale
        if width * height > max_frame_pixels():
            raise LimitError(
                f"The output would have {width}x{height} pixels a frame, more than {max_frame_pixels():,} (DNI_MAX_PIXELS)."
            )
        sizes = {b"W": b"W%d" % width, b"H": b"H%d" % height}
        return replace(self, width=width, height=height, tokens=tuple(sizes.get(token[:1], token) for token in self.tokens))

    def with_rate(self, rate: Fraction | None) -> Y4mHeader:
        """Returns the header with a frame rate for one that has none.

        Args:
            rate: Frames per second, or None where nothing else says it either.

        Raises:
            UsageError: There is no rate anywhere, or two that differ.
        """
        if self.rate is not None:
            if rate not in (None, self.rate):
                raise UsageError(f"The y4m header says {self.rate} frames per second and --fps says {rate}; leave --fps out.")
            return self
        if rate is None:
            raise UsageError("The y4m header has no frame rate; give it with --fps.")
        tokens = tuple(token for token in self.tokens if token[:1] != b"F")
        return replace(self, rate=rate, tokens=(*tokens, b"F%d:%d" % (rate.numerator, rate.denominator)))

    def to_bytes(self) -> bytes:
        """Returns the line."""
        return b" ".join((Y4M_MAGIC, *self.tokens)) + b"\n"


def read_header(source: ReadableFile) -> Y4mHeader:
    """Reads the first line of a stream. Nothing is allocated by what it claims.

    Raises:
        InputError: There is no line, it is not y4m, or a field is missing, given twice or nonsense.
        UsageError: The chroma format is not supported, such as 4:1:1.
        LimitError: A frame has more pixels than `max_frame_pixels`.
    """
    line = read_line(source, MAX_HEADER_BYTES)
    if not line:
        raise InputError("stdin ended before a video began; see what the program before the pipe says.")
    if not line.startswith(Y4M_MAGIC + b" "):
        raise InputError(
            f"stdin does not begin with {Y4M_MAGIC.decode()}, but with {_format_bytes(line[:16])}; "
            "write y4m (ffmpeg: -f yuv4mpegpipe), or give --format rgb24."
        )
    if not line.endswith(b"\n"):
        raise InputError(f"The y4m header does not end within {len(line)} bytes.")
    tokens = tuple(line[len(Y4M_MAGIC) :].split())
    fields: dict[str, str] = {}
    full_range = False
    for token in tokens:
        key, value = token[:1].decode("latin-1"), token[1:].decode("latin-1")
        if key == "X":
            full_range |= value.upper() == "COLORRANGE=FULL"
        elif key in fields:
            raise InputError(f"The y4m header gives {_format_bytes(token[:1])} twice: {_format_bytes(line.strip())}.")
        else:
            fields[key] = value
    width, height = _parse_length(fields, "W", line), _parse_length(fields, "H", line)
    if width * height > max_frame_pixels():
        raise LimitError(
            f"The y4m header claims {width}x{height} pixels; the limit is {max_frame_pixels():,} (DNI_MAX_PIXELS)."
        )
    chroma, rate = _validate_chroma(fields.get("C", "420jpeg")), _parse_rate(fields.get("F"), line)
    return Y4mHeader(width, height, chroma, full_range, rate, tokens)


def _parse_length(fields: dict[str, str], key: str, line: bytes) -> int:
    text = fields.get(key, "")
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        problem = f"says {key}{escape_name(text)}" if key in fields else f"has no {key}"
        raise InputError(f"The y4m header {problem}; {key} must be a whole number from 1: {_format_bytes(line.strip())}.")
    return int(text)


def _parse_rate(text: str | None, line: bytes) -> Fraction | None:
    if text is None or text == "0:0":  # yuv4mpeg(5): unknown
        return None
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise InputError(
            f"The y4m header has the frame rate F{escape_name(text)}, which is none: {_format_bytes(line.strip())}."
        )
    return Fraction(int(match[1]), int(match[2]))


def _validate_chroma(name: str) -> str:
    if name in PIXEL_FORMATS:
        return name
    raise UsageError(
        f"The stream is C{escape_name(name, 40)}, a layout that this filter does not read; convert it before the pipe to 4:2:0, "
        "4:2:2, 4:4:4 or mono (ffmpeg: -pix_fmt yuv420p)."
    )


def _format_bytes(data: bytes) -> str:
    return f"'{escape_name(data.decode('latin-1'), 80)}'"


@dataclass(frozen=True)
class Y4mFrame:
    """One frame as it was read.

    Attributes:
        parameters: The parameters of its line.
        planes: uint8 or little-endian uint16 (height, width) each, views of one array that nobody else holds.
    """

    parameters: tuple[bytes, ...]
    planes: tuple[NDArray[Any], ...]


def read_y4m_frames(source: ReadableFile, header: Y4mHeader) -> Iterator[Y4mFrame]:
    """Reads the frames up to the end of the stream.

    Raises:
        InputError: The stream does not begin with a whole frame.
        PartialResultError: The stream ends inside a later frame, or something else follows a frame.
    """
    count = 0
    start = bytearray(len(Y4M_FRAME_TAG) + 1)
    while size := read_whole(source, start):
        line = bytes(start[:size])
        if not (Y4M_FRAME_TAG + b"\n").startswith(line.replace(b" ", b"\n")):
            raise _make_frame_error(count, f"{_format_bytes(line)} stands where FRAME was expected")
        if line.endswith(b" "):
            line = read_line(source, MAX_HEADER_BYTES, line)
        if not line.endswith(b"\n"):
            is_long = len(line) == MAX_HEADER_BYTES
            raise _make_frame_error(count, "a FRAME line has no end" if is_long else "the stream ends in a frame's line")
        data = np.empty(header.frame_bytes, np.uint8)
        size = read_whole(source, data)
        if size < data.size:
            raise _make_frame_error(count, f"the stream ends {size} bytes into a frame of {data.size}")
        yield Y4mFrame(tuple(line.split()[1:]), split_planes(data.view(header.dtype), header.plane_sizes))
        count += 1


def _make_frame_error(count: int, problem: str) -> Exception:
    if not count:
        return InputError(f"No whole frame came: {problem}.")
    return PartialResultError(f"After frame {count}, {problem}; the {count} whole frames before were passed on.")


def split_planes(data: NDArray[Any], sizes: tuple[tuple[int, int], ...]) -> tuple[NDArray[Any], ...]:
    """Returns views (height, width) of one array (samples,), one behind the other."""
    ends = np.cumsum([height * width for height, width in sizes])[:-1]
    return tuple(part.reshape(size) for part, size in zip(np.split(data, ends), sizes, strict=True))


def format_frame_line(parameters: tuple[bytes, ...], stamp: str = "") -> bytes:
    """Formats a frame's line with its parameters, and the stamp as an X comment where the line has room for it."""
    line = b" ".join((Y4M_FRAME_TAG, *parameters))
    comment = f" XDNI={stamp}".encode("ascii", "replace").replace(b"\n", b"?") if stamp else b""
    return line + (comment if len(line) + len(comment) < MAX_FRAME_LINE_BYTES else b"") + b"\n"


class Y4mFormat:
    """A y4m stream, whose tokens are kept; see RawVideoFormat."""

    def __init__(
        self, source: ReadableFile, scale: int, *, matrix: str = "auto", fps: Fraction | None = None, stamp: bool = True
    ) -> None:
        """Reads the header.

        Args:
            source: The stream.
            scale: Scale of the network.
            matrix: "709", "601", or "auto" for that of the number of lines, of the input and of the output each.
            fps: Frames per second, for a header without a rate.
            stamp: Write what made a frame into its line.

        Raises:
            InputError: The header is none.
            UsageError: The chroma format is not supported, or there is no frame rate anywhere, or two that differ.
            LimitError: A frame is too large, before or after the network.
        """
        header = read_header(source).with_rate(fps)
        self.scale, self.width, self.height, self.rate = scale, header.width, header.height, header.rate
        self._source, self._stamp = source, stamp
        self._input_header, self._output_header = header, header.scale_by(scale)
        self._to_rgb = ColorConverter(choose_color(matrix, header.height, header.full_range))
        self._from_rgb = ColorConverter(
            choose_color(matrix, self._output_header.height, header.full_range),
            # Of 8-bit mono, luma of 4:4:4: the converter's way to it is faster.
            "yuv444p" if header.chroma == "mono" else PIXEL_FORMATS[header.chroma],
        )
        self.notes = tuple(_collect_notes(header, self._to_rgb.color, self._from_rgb.color))

    def encode_header(self) -> bytes:
        """Returns the header with the size of the output."""
        return self._output_header.to_bytes()

    def read(self) -> Iterator[RawFrame]:
        """Reads the frames, as RawVideoFormat says."""
        largest = self._input_header.dtype.type((1 << self._input_header.bits) - 1)
        for frame in read_y4m_frames(self._source, self._input_header):
            decoded = VideoFrame(self.width, self.height, PIXEL_FORMATS[self._input_header.chroma])
            self._to_rgb.color.tag(decoded)
            for target, plane in zip(view_planes(decoded), frame.planes, strict=True):
                np.minimum(plane, largest, out=target)  # a sample may claim more bits than the header
            yield RawFrame(self._to_rgb.to_deepest_rgb(decoded), frame.parameters)

    def encode_frame(self, frame: RawFrame, rendered: RenderedFrame) -> NDArray[np.uint8]:
        """Returns the frame's line and its planes."""
        stamp = f"{rendered.generation}:" + ",".join(f"{share:.6g}" for share in rendered.coefficients.values)
        line = format_frame_line(frame.parameters, stamp if self._stamp else "")
        data = np.empty(len(line) + self._output_header.frame_bytes, np.uint8)
        data[: len(line)] = np.frombuffer(line, np.uint8)
        planes = split_planes(data[len(line) :].view(self._output_header.dtype), self._output_header.plane_sizes)
        for target, plane in zip(planes, view_planes(self._from_rgb.from_rgb(rendered.output)), strict=False):
            target[:] = plane  # mono has no use for the other two
        return data


def _collect_notes(header: Y4mHeader, read: ColorSpec, written: ColorSpec) -> Iterator[str]:
    if read.is_guessed and header.chroma != "mono":
        change = f" and written as {written.matrix_name}" if written.matrix != read.matrix else ""
        yield f"y4m carries no color matrix; by the number of lines it is taken as {read.matrix_name}{change} (--matrix)."
    if header.is_interlaced:
        yield "The stream is interlaced; its frames are filtered as they are, both fields together."


def choose_color(matrix: str, height: int, is_full_range: bool) -> ColorSpec:
    """Chooses the color specification of a stream.

    Args:
        matrix: "709", "601", or "auto" for that of the number of lines.
        height: Lines of a frame.
        is_full_range: As the header says.
    """
    number = {"709": AVCOL_SPC_BT709, "601": AVCOL_SPC_SMPTE170M}.get(matrix) or choose_matrix(height)
    return ColorSpec(number, is_full_range, is_guessed=matrix == "auto")

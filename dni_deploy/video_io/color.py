"""The color conversion of video: between the YUV codes of a file or pipe and the RGB that a network sees.

Everything that turns video into RGB or back uses this module, so that a frame has the same RGB in every command.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from numpy.typing import NDArray

from dni_deploy.errors import InputError, escape_name
from dni_deploy.imaging.frames import Frame

SWSCALE_COLORSPACES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020", 10: "BT2020"}
"""AVCOL_SPC_* of a frame -> swscale's name for it. The two enumerations share numbers but not their meanings."""

AVCOL_SPC_RGB, AVCOL_SPC_BT709, AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_SMPTE170M = 0, 1, 2, 6
"""Some of AVCOL_SPC_*; unspecified is 2 for primaries and transfer, too. SMPTE 170M has the matrix of BT.601."""

AVCOL_RANGE_LIMITED, AVCOL_RANGE_FULL = 1, 2
"""AVCOL_RANGE_*: black and white are 16 and 235, or 0 and 255."""

MIN_BT709_HEIGHT_PX = 720
"""Untagged video of this height or more is taken as BT.709, below it as BT.601, as players do."""

SCALER_FLAGS = 0x4 | 0x2000 | 0x4000 | 0x40000
"""swscale's SWS_BICUBIC, SWS_FULL_CHR_H_INT, SWS_FULL_CHR_H_INP and SWS_ACCURATE_RND, in both directions.

Without accurate rounding and full chroma, swscale takes shortcuts to RGB: one pass through 4:2:0 and back then darkens luma by
1.0 code of 255 and leaves 46 dB of a photograph; with them the shift is 0.00 and 78 dB are left. Bicubic keeps chroma at 59 dB,
bilinear at 50. Their price at 1280x720 is 3.0 ms instead of 0.5 ms to RGB, on one core; back it is none.
"""

EXACT_BITS = 14
"""Bits of the limited-range codes through which full range is converted, by table, where swscale is not exact."""


@dataclass(frozen=True)
class ColorSpec:
    """How codes stand for colors, as a file says it and as the output is tagged again.

    Attributes:
        matrix: The AVCOL_SPC_* number of the YUV matrix.
        is_full_range: Black and white are 0 and 255 of 8 bits, instead of 16 and 235.
        primaries: The AVCOL_PRI_* number; only passed on.
        transfer: The AVCOL_TRC_* number; only passed on.
        is_guessed: The file does not say its matrix, so that it was chosen by the number of lines.
    """

    matrix: int
    is_full_range: bool
    primaries: int = AVCOL_SPC_UNSPECIFIED
    transfer: int = AVCOL_SPC_UNSPECIFIED
    is_guessed: bool = False

    @classmethod
    def from_frame(cls, frame: VideoFrame) -> ColorSpec:
        """Reads the tags of a frame and completes them by the usual rule.

        Raises:
            InputError: swscale does not know the matrix.
        """
        matrix = int(frame.colorspace)
        usual = choose_matrix(frame.height)
        primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
        if frame.format.is_rgb or frame.format.has_palette or matrix == AVCOL_SPC_RGB:
            return cls(usual, False, primaries, transfer)
        is_full_range = int(frame.color_range) == AVCOL_RANGE_FULL or frame.format.name.startswith("yuvj")
        if matrix == AVCOL_SPC_UNSPECIFIED:
            return cls(usual, is_full_range, primaries, transfer, not _is_gray(frame.format))
        if matrix not in SWSCALE_COLORSPACES:
            raise InputError(
                f"The video's color matrix is number {matrix} of AVCOL_SPC, which cannot be converted to RGB here; "
                "convert the video to BT.709 first."
            )
        if SWSCALE_COLORSPACES[matrix] not in Colorspace.__members__:
            raise InputError(
                f"The video's color matrix is {SWSCALE_COLORSPACES[matrix]}, which PyAV knows from version 18 on "
                "(Python 3.11); convert the video to BT.709 first."
            )
        return cls(matrix, is_full_range, primaries, transfer)

    def tag(self, target: VideoFrame | VideoCodecContext) -> None:
        """Writes the tags onto a frame or the context of an encoder."""
        target.colorspace = self.matrix
        target.color_range = AVCOL_RANGE_FULL if self.is_full_range else AVCOL_RANGE_LIMITED
        target.color_primaries, target.color_trc = self.primaries, self.transfer

    @property
    def matrix_name(self) -> str:
        """The name of the matrix for messages, such as "BT.709"."""
        name = SWSCALE_COLORSPACES[self.matrix]
        return {"ITU709": "BT.709", "ITU601": "BT.601", "BT2020": "BT.2020"}.get(name, escape_name(name))

    def __str__(self) -> str:
        return f"{self.matrix_name}, {'full' if self.is_full_range else 'limited'} range"


def choose_matrix(height: int) -> int:
    """Returns the AVCOL_SPC_* number that untagged video of that many lines is taken for."""
    return AVCOL_SPC_BT709 if height >= MIN_BT709_HEIGHT_PX else AVCOL_SPC_SMPTE170M


class ColorConverter:
    """Converts frames of one color specification to RGB and back, each code to within 1 of its exact value.

    swscale converts and scales. It is exact for limited range of every depth, and for full range of 8 bits to RGB. Elsewhere
    its codes are off: from full range of more bits by up to 1.2 (it takes 1020 for white where that is 1023 of 10 bits), to
    full range by -0.5 in chroma, from RGB of more than 8 bits by 0.4 to 0.5. There, tables convert: full range is limited
    range of 14 bits on swscale's side. Gray goes by a table alone, since swscale takes it for full range whatever its tag is.

    Thread safety: For one thread, as it keeps swscale's context between frames.
    """

    def __init__(self, color: ColorSpec, pixel_format: str = "yuv420p") -> None:
        """Prepares for one stream.

        Args:
            color: What the codes mean. It takes precedence over the tags of frames.
            pixel_format: The format that `from_rgb` makes: yuv420p, yuv422p or yuv444p.
        """
        self.color, self.pixel_format = color, pixel_format
        self._colorspace = Colorspace[SWSCALE_COLORSPACES[color.matrix]]
        self._range = AVCOL_RANGE_FULL if color.is_full_range else AVCOL_RANGE_LIMITED
        self._scaler = VideoReformatter()
        # swscale has vector code for these flags to planar RGB alone: both steps take 3.0 ms at 1280x720, rgb24 at once 5.9 ms.
        self._interleaver = VideoReformatter()

    def to_rgb(self, frame: VideoFrame, size: tuple[int, int] | None = None) -> Frame:
        """Converts a frame of any format to RGB.

        Args:
            frame: A decoded frame. It is not changed.
            size: Width and height to scale to; by default those of the frame.

        Returns:
            uint8 (H, W, 3), RGB; an array that the caller owns.
        """
        bits = min(max(8, *(component.bits for component in frame.format.components)), 16)  # 1 of mono, 32 of float
        if frame.format.is_rgb or frame.format.has_palette:
            if bits <= 8:
                return _read_packed(self._scale(frame, "rgb24", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL, size), np.uint8)
            deep = _read_packed(self._scale(frame, "rgb48le", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL, size), np.uint16)
            rgb: Frame = _make_code_table(16, True, 8, True, False)[deep]
            return rgb
        if _is_gray(frame.format):
            return self._gray_to_rgb(frame, bits, size)
        source_range = self._range
        if self.color.is_full_range and bits > 8:
            frame, source_range = self._to_exact_limited(frame, bits), AVCOL_RANGE_LIMITED
        planar = self._scale(frame, "gbrp", source_range, AVCOL_RANGE_FULL, size)
        return _read_packed(self._interleaver.reformat(planar, format="rgb24"), np.uint8)

    def from_rgb(self, rgb: Frame) -> VideoFrame:
        """Converts RGB to a frame to encode.

        Args:
            rgb: uint8 (H, W, 3).

        Returns:
            A new frame of `pixel_format` without a timestamp, with the tags of the color specification.
        """
        source = VideoFrame.from_numpy_buffer(np.ascontiguousarray(rgb), format="rgb24")
        if self.color.is_full_range:
            limited = self._scale(source, f"{self.pixel_format}{EXACT_BITS}le", AVCOL_RANGE_FULL, AVCOL_RANGE_LIMITED)
            frame = VideoFrame(source.width, source.height, self.pixel_format)
            _convert_planes(limited, frame, (EXACT_BITS, False), (8, True))
        else:
            frame = self._scale(source, self.pixel_format, AVCOL_RANGE_FULL, AVCOL_RANGE_LIMITED)
        self.color.tag(frame)
        return frame

    def _gray_to_rgb(self, frame: VideoFrame, bits: int, size: tuple[int, int] | None) -> Frame:
        """Repeats luma in three channels. Gray without a tag is full range, as in image files."""
        flat = self._scale(frame, "gray" if bits == 8 else f"gray{bits}le", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL, size)
        is_full_range = int(frame.color_range) != AVCOL_RANGE_LIMITED
        luma = _make_code_table(bits, is_full_range, 8, True, False)[view_planes(flat)[0]]
        return np.repeat(luma[..., None], 3, axis=2)

    def _to_exact_limited(self, frame: VideoFrame, bits: int) -> VideoFrame:
        """Converts full range of more than 8 bits to limited range, by table. Packed formats become planar first, unchanged."""
        subsampling = {(32, 32): "420", (32, 64): "422"}.get(
            (frame.format.chroma_width(64), frame.format.chroma_height(64)), "444"
        )
        planar = self._scale(frame, f"yuv{subsampling}p{bits}le", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL)
        limited = VideoFrame(frame.width, frame.height, f"yuv{subsampling}p{EXACT_BITS}le")
        _convert_planes(planar, limited, (bits, True), (EXACT_BITS, False))
        return limited

    def _scale(
        self, frame: VideoFrame, pixel_format: str, source_range: int, target_range: int, size: tuple[int, int] | None = None
    ) -> VideoFrame:
        width, height = size or (frame.width, frame.height)
        return self._scaler.reformat(
            frame,
            width,
            height,
            pixel_format,
            src_colorspace=self._colorspace,
            dst_colorspace=self._colorspace,
            interpolation=SCALER_FLAGS,
            src_color_range=source_range,
            dst_color_range=target_range,
        )


def view_planes(frame: VideoFrame) -> tuple[NDArray[Any], ...]:
    """Returns the planes of a planar frame, without the padding of rows.

    Returns:
        uint8 or uint16 (height, width) for each plane; views of the frame's own memory.
    """
    dtype = np.uint8 if frame.format.components[0].bits <= 8 else np.uint16
    return tuple(_view_rows(plane, dtype, plane.width) for plane in frame.planes)


def _view_rows(plane: Any, dtype: type[np.generic], length: int) -> NDArray[Any]:
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
    return rows[:, : length * np.dtype(dtype).itemsize].view(dtype)


def _read_packed(frame: VideoFrame, dtype: type[np.generic]) -> NDArray[Any]:
    """Returns packed RGB as (H, W, 3): the frame's memory itself, or a copy where its rows are padded."""
    return np.ascontiguousarray(_view_rows(frame.planes[0], dtype, 3 * frame.width)).reshape(frame.height, frame.width, 3)


def _is_gray(pixel_format: VideoFormat) -> bool:
    return pixel_format.name.startswith(("gray", "ya8", "ya16", "mono"))


def _convert_planes(
    source: VideoFrame, target: VideoFrame, source_codes: tuple[int, bool], target_codes: tuple[int, bool]
) -> None:
    """Fills the planes of `target` by tables; codes are given as bits and whether they are full range."""
    for index, (read, written) in enumerate(zip(view_planes(source), view_planes(target), strict=True)):
        np.take(_make_code_table(*source_codes, *target_codes, index > 0), read, out=written, mode="clip")


@cache
def _make_code_table(bits: int, is_full: bool, to_bits: int, to_full: bool, is_chroma: bool) -> NDArray[Any]:
    """Tabulates, for each code of `bits`, the nearest code of `to_bits` for the same level."""
    zero, span = _code_levels(bits, is_full, is_chroma)
    to_zero, to_span = _code_levels(to_bits, to_full, is_chroma)
    codes = (np.arange(1 << bits) - zero) / span * to_span + to_zero
    return np.clip(np.rint(codes), 0, (1 << to_bits) - 1).astype(np.uint8 if to_bits <= 8 else np.uint16)


def _code_levels(bits: int, is_full: bool, is_chroma: bool) -> tuple[int, int]:
    """Returns the code of level 0 and the codes from level 0 to 1, or of chroma from -0.5 to 0.5.

    Source: ITU-R BT.709-6 item 3.4 and BT.2100-2 table 9.
    """
    unit, full_span = (1 << bits) / 256, (1 << bits) - 1
    if is_chroma:
        return int(128 * unit), full_span if is_full else int(224 * unit)
    return (0, full_span) if is_full else (int(16 * unit), int(219 * unit))

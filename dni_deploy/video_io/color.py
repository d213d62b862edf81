"""The color conversion of video: between the YUV codes of a file or pipe and the RGB that a network sees.

Everything that turns video into RGB or back uses this module, so that a frame has the same RGB in every command.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.errors import InputError, escape_name
from dni_deploy.imaging.frames import WHITE_LEVELS, AnyFrame, Frame

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

LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
"""AVCOL_SPC_* -> Kr and Kb, the weights of red and blue in luma: BT.709, FCC 73.682, BT.601 (twice), SMPTE 240M, BT.2020 (twice)."""

FAST_FORMATS = frozenset({"yuv420p", "yuv422p", "yuv444p"})
"""The formats to which swscale converts 8-bit RGB exactly."""

DEEP_BITS = 16
"""Bits of the 4:4:4 codes between which and 16-bit RGB NumPy converts; swscale only resamples chroma there, without an error."""

DEEP_SUBSAMPLING = frozenset({"420", "422", "444"})
"""The kinds of chroma that FFmpeg has with DEEP_BITS."""

BAND_PX = 1 << 15
"""Pixels that NumPy converts at once: their float32 values stay in the cache."""


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
            return cls(usual, is_full_range, primaries, transfer, not is_gray(frame.format))
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
        """Writes the tags onto a frame or the context of an encoder; RGB has no matrix and full range."""
        pixel_format = target.format
        has_no_matrix = pixel_format is not None and (pixel_format.is_rgb or pixel_format.has_palette)
        target.colorspace = AVCOL_SPC_RGB if has_no_matrix else self.matrix
        target.color_range = AVCOL_RANGE_FULL if self.is_full_range or has_no_matrix else AVCOL_RANGE_LIMITED
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

    8-bit RGB: swscale converts and scales. It is exact for limited range of every depth, and for full range of 8 bits to RGB.
    Elsewhere its codes are off: from full range of more bits by up to 1.2 (it takes 1020 for white where that is 1023 of 10
    bits), to full range by -0.5 in chroma, from RGB of more than 8 bits by 0.4 to 0.5. There, tables convert: full range is
    limited range of 14 bits on swscale's side. Gray goes by a table alone, since swscale takes it for full range whatever its
    tag is.

    16-bit RGB, and frames to encode of other formats than 8-bit YUV: swscale's RGB is off by 2 codes of 10 bits and 8 of 12, so
    it only resamples chroma, to and from 4:4:4 of 16 bits, and NumPy computes the matrix in float32.

    Thread safety: For one thread, as it keeps swscale's context between frames.
    """

    def __init__(self, color: ColorSpec, pixel_format: str = "yuv420p") -> None:
        """Prepares for one stream.

        Args:
            color: What the codes mean. It takes precedence over the tags of frames.
            pixel_format: The format that `from_rgb` makes, by FFmpeg's name: any but those in a device's memory.
        """
        self.color, self.pixel_format = color, pixel_format
        self._target = VideoFormat(pixel_format)
        self._colorspace = Colorspace[SWSCALE_COLORSPACES[color.matrix]]
        self._range = AVCOL_RANGE_FULL if color.is_full_range else AVCOL_RANGE_LIMITED
        self._scaler = VideoReformatter()
        # swscale has vector code for these flags to planar RGB alone: both steps take 3.0 ms at 1280x720, rgb24 at once 5.9 ms.
        self._interleaver = VideoReformatter()

    def to_rgb(self, frame: VideoFrame, size: tuple[int, int] | None = None) -> Frame:
        """Converts a frame of any format to RGB of 8 bits.

        Args:
            frame: A decoded frame. It is not changed.
            size: Width and height to scale to; by default those of the frame.

        Returns:
            uint8 (H, W, 3), RGB; an array that the caller owns.
        """
        bits = component_bits(frame.format)
        if frame.format.is_rgb or frame.format.has_palette:
            if bits <= 8:
                return _read_packed(self._scale(frame, "rgb24", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL, size), np.uint8)
            deep = _read_packed(self._scale(frame, "rgb48le", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL, size), np.uint16)
            rgb: Frame = _make_code_table(16, True, 8, True, False)[deep]
            return rgb
        if is_gray(frame.format):
            return self._gray_to_rgb(frame, bits, 8, size)
        source_range = self._range
        if self.color.is_full_range and bits > 8:
            frame, source_range = self._to_exact_limited(frame, bits), AVCOL_RANGE_LIMITED
        planar = self._scale(frame, "gbrp", source_range, AVCOL_RANGE_FULL, size)
        return _read_packed(self._interleaver.reformat(planar, format="rgb24"), np.uint8)

    def to_deepest_rgb(self, frame: VideoFrame) -> AnyFrame:
        """Converts a frame to RGB that holds its depth.

        Args:
            frame: A decoded frame. It is not changed.

        Returns:
            uint8 (H, W, 3) for 8 bits or fewer, as `to_rgb`; else uint16, white being 65535. The caller owns it.
        """
        bits = component_bits(frame.format)
        if bits <= 8:
            return self.to_rgb(frame)
        if frame.format.is_rgb:
            packed = self._scale(frame, "rgb48le", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL)
            if not frame.format.name.startswith("gbr"):
                return _read_packed(packed, np.uint16)
            return self._planar_to_rgb(frame, bits)
        if is_gray(frame.format):
            return self._gray_to_rgb(frame, bits, 16, None)
        # Resampled codes are those of `bits`, shifted up: full range ends at (2^bits - 1) * 2^(16 - bits). Without resampling,
        # swscale would stretch them instead.
        code_bits = bits if find_subsampling(frame.format) == "444" else DEEP_BITS
        codes = self._scale(frame, f"yuv444p{code_bits}le", self._range, self._range)
        unit = float(1 << (code_bits - bits))
        rgb = np.empty((frame.height, frame.width, 3), np.uint16)
        (black, white_span), (middle, chroma_span) = (
            _code_levels(bits, self.color.is_full_range, chroma) for chroma in (False, True)
        )
        red_weight, blue_weight = LUMA_WEIGHTS[self.color.matrix]
        green_weight = 1 - red_weight - blue_weight
        luma_scale, chroma_scale = 65535 / (white_span * unit), 65535 / (chroma_span * unit)
        planes = view_planes(codes)
        for rows in _bands(frame.height, frame.width):
            luma = (planes[0][rows] - np.float32(black * unit)) * np.float32(luma_scale)
            blue = (planes[1][rows] - np.float32(middle * unit)) * np.float32(chroma_scale * (2 - 2 * blue_weight))
            red = (planes[2][rows] - np.float32(middle * unit)) * np.float32(chroma_scale * (2 - 2 * red_weight))
            green = luma - np.float32(blue_weight / green_weight) * blue - np.float32(red_weight / green_weight) * red
            blue += luma
            red += luma
            for channel, values in enumerate((red, green, blue)):
                rgb[rows, :, channel] = _round_codes(values, 65535)
        return rgb

    def read_transparency(self, frame: VideoFrame) -> NDArray[Any] | None:
        """Reads the transparency of a frame as it is stored.

        Returns:
            uint8 (H, W) for 8 bits or fewer, else uint16; opaque is the largest value. None where the format has none.
        """
        if not has_transparency(frame.format):
            return None
        if frame.format.name == "ya8":  # swscale is off by one here
            levels: NDArray[Any] = _view_rows(frame.planes[0], np.uint8, 2 * frame.width)[:, 1::2].copy()
            return levels
        if component_bits(frame.format) <= 8:
            return _read_packed(self._scale(frame, "rgba", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL), np.uint8, 4)[..., 3]
        if frame.format.name.startswith(("yuva", "gbrap")) and frame.format.name.endswith("le"):
            bits = component_bits(frame.format)
            return np.take(_make_code_table(bits, True, 16, True, False), view_planes(frame)[3])
        return _read_packed(self._scale(frame, "rgba64le", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL), np.uint16, 4)[..., 3]

    def from_rgb(self, rgb: AnyFrame, transparency: NDArray[Any] | None = None) -> VideoFrame:
        """Converts RGB to a frame to encode.

        Args:
            rgb: uint8 or uint16 (H, W, 3).
            transparency: uint8 or uint16 (H, W); None: opaque. Left out where the format has none.

        Returns:
            A new frame of `pixel_format` without a timestamp, with the tags of the color specification.
        """
        if self._target.is_rgb or self._target.has_palette:
            frame = self._make_rgb(rgb, transparency)
        elif rgb.dtype == np.uint8 and self.pixel_format in FAST_FORMATS:
            frame = self._make_yuv_by_swscale(cast(Frame, rgb))
        else:
            frame = self._make_yuv(rgb, transparency)
        self.color.tag(frame)
        return frame

    def _make_yuv_by_swscale(self, rgb: Frame) -> VideoFrame:
        source = VideoFrame.from_numpy_buffer(np.ascontiguousarray(rgb), format="rgb24")
        if not self.color.is_full_range:
            return self._scale(source, self.pixel_format, AVCOL_RANGE_FULL, AVCOL_RANGE_LIMITED)
        limited = self._scale(source, f"{self.pixel_format}{EXACT_BITS}le", AVCOL_RANGE_FULL, AVCOL_RANGE_LIMITED)
        frame = VideoFrame(source.width, source.height, self.pixel_format)
        _convert_planes(limited, frame, (EXACT_BITS, False), (8, True))
        return frame

    def _make_yuv(self, rgb: AnyFrame, transparency: NDArray[Any] | None) -> VideoFrame:
        """Computes codes of 4:4:4 and 16 bits in NumPy, lets swscale average chroma, and rounds to the depth of the format."""
        height, width = rgb.shape[:2]
        bits = component_bits(self._target)
        gray = is_gray(self._target)
        is_full_range = self.color.is_full_range
        unit = float(1 << (DEEP_BITS - bits))
        codes = VideoFrame(width, height, f"yuv444p{DEEP_BITS}le")
        (black, white_span), (middle, chroma_span) = (_code_levels(bits, is_full_range, chroma) for chroma in (False, True))
        red_weight, blue_weight = LUMA_WEIGHTS[self.color.matrix]
        white = WHITE_LEVELS[rgb.dtype]
        luma_scale, chroma_scale = white_span * unit / white, chroma_span * unit / white
        planes = view_planes(codes)
        for rows in _bands(height, width):
            red, green, blue = (rgb[rows, :, channel].astype(np.float32) for channel in range(3))
            luma = (
                np.float32(red_weight) * red + np.float32(1 - red_weight - blue_weight) * green + np.float32(blue_weight) * blue
            )
            blue -= luma
            red -= luma
            values = (
                luma * np.float32(luma_scale) + np.float32(black * unit),
                blue * np.float32(chroma_scale / (2 - 2 * blue_weight)) + np.float32(middle * unit),
                red * np.float32(chroma_scale / (2 - 2 * red_weight)) + np.float32(middle * unit),
            )
            for plane, value in zip(planes, values, strict=True):
                plane[rows] = _round_codes(value, 65535)
        if gray:
            return self._make_gray(planes[0], transparency, bits)
        subsampling = find_subsampling(self._target)
        planar_name = _planar_yuv_name(subsampling, bits, has_transparency(self._target))
        if subsampling not in DEEP_SUBSAMPLING:
            return self._scale(codes, self.pixel_format, self._range, self._range)
        codes = self._scale(codes, f"yuv{subsampling}p{DEEP_BITS}le", self._range, self._range)
        frame = VideoFrame(width, height, planar_name)
        for source, target in zip(view_planes(codes), view_planes(frame), strict=False):
            target[:] = _shift_codes(source, bits)
        if len(frame.planes) == 4:
            view_planes(frame)[3][:] = _convert_levels(transparency, (height, width), bits)
        if planar_name == self.pixel_format:
            return frame
        return self._scale(frame, self.pixel_format, self._range, self._range)

    def _make_gray(self, luma: NDArray[np.uint16], transparency: NDArray[Any] | None, bits: int) -> VideoFrame:
        height, width = luma.shape
        if self.pixel_format == "ya8":
            frame = VideoFrame(width, height, "ya8")
            rows = _view_rows(frame.planes[0], np.uint8, 2 * width)
            rows[:, 0::2], rows[:, 1::2] = _shift_codes(luma, 8), _convert_levels(transparency, (height, width), 8)
            return frame
        if has_transparency(self._target):
            # swscale packs gray with transparency from RGB alone, exactly where the three are equal.
            levels = np.empty((height, width, 4), np.uint16)
            levels[..., :3] = luma[..., None]
            levels[..., 3] = _convert_levels(transparency, (height, width), 16)
            packed = VideoFrame.from_ndarray(levels, format="rgba64le")
            return self._scale(packed, self.pixel_format, AVCOL_RANGE_FULL, AVCOL_RANGE_FULL)
        flat = VideoFrame(width, height, "gray" if bits <= 8 else f"gray{bits}le")
        view_planes(flat)[0][:] = _shift_codes(luma, bits)
        if flat.format.name == self.pixel_format:
            return flat
        return self._scale(flat, self.pixel_format, AVCOL_RANGE_FULL, AVCOL_RANGE_FULL)

    def _make_rgb(self, rgb: AnyFrame, transparency: NDArray[Any] | None) -> VideoFrame:
        height, width = rgb.shape[:2]
        name, bits = self.pixel_format, component_bits(self._target)
        is_transparent = has_transparency(self._target)
        if name.startswith("gbr") and not name.endswith(("be", "msble", "f16le")):
            frame = VideoFrame(width, height, name)
            planes = _view_float_planes(frame) if name.endswith("f32le") else view_planes(frame)
            for plane, channel in zip(planes, (1, 2, 0), strict=False):
                plane[:] = _convert_levels(rgb[..., channel], (height, width), 0 if name.endswith("f32le") else bits)
            if is_transparent:
                planes[3][:] = _convert_levels(transparency, (height, width), 0 if name.endswith("f32le") else bits)
            return frame
        depth = 16 if bits > 8 else 8
        packed: NDArray[Any] = np.empty((height, width, 4 if is_transparent else 3), np.uint16 if depth == 16 else np.uint8)
        for channel in range(3):
            packed[..., channel] = _convert_levels(rgb[..., channel], (height, width), depth)
        if is_transparent:
            packed[..., 3] = _convert_levels(transparency, (height, width), depth)
        packed_name = {(8, False): "rgb24", (8, True): "rgba", (16, False): "rgb48le", (16, True): "rgba64le"}[
            depth, is_transparent
        ]
        if self._target.has_palette:
            return _make_palette_frame(packed[..., :3], transparency)
        source = VideoFrame.from_ndarray(packed, format=packed_name)
        return source if packed_name == name else self._scale(source, name, AVCOL_RANGE_FULL, AVCOL_RANGE_FULL)

    def _planar_to_rgb(self, frame: VideoFrame, bits: int) -> NDArray[np.uint16]:
        """Reads planar RGB; swscale's step to packed RGB of 16 bits shifts codes, so that white would be 65472 of 10 bits."""
        if frame.format.name.endswith("f32le"):
            green, blue, red = _view_float_planes(frame)[:3]
            return np.rint(np.clip(np.stack([red, green, blue], axis=2), 0, 1) * 65535).astype(np.uint16)
        if not frame.format.name.endswith("le") or "f" in frame.format.name:
            packed = self._scale(frame, "rgb48le", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL)
            return _read_packed(packed, np.uint16)
        table = _make_code_table(bits, True, 16, True, False)
        green, blue, red = view_planes(frame)[:3]
        return np.stack([table[red], table[green], table[blue]], axis=2)

    def _gray_to_rgb(self, frame: VideoFrame, bits: int, to_bits: int, size: tuple[int, int] | None) -> NDArray[Any]:
        """Repeats luma in three channels. Gray without a tag is full range, as in image files."""
        flat = self._scale(frame, "gray" if bits == 8 else f"gray{bits}le", AVCOL_RANGE_FULL, AVCOL_RANGE_FULL, size)
        is_full_range = int(frame.color_range) != AVCOL_RANGE_LIMITED
        luma = _make_code_table(bits, is_full_range, to_bits, True, False)[view_planes(flat)[0]]
        return np.repeat(luma[..., None], 3, axis=2)

    def _to_exact_limited(self, frame: VideoFrame, bits: int) -> VideoFrame:
        """Converts full range of more than 8 bits to limited range, by table. Packed formats become planar first, unchanged."""
        subsampling = {"420": "420", "422": "422"}.get(find_subsampling(frame.format), "444")
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


def _read_packed(frame: VideoFrame, dtype: type[np.generic], channels: int = 3) -> NDArray[Any]:
    """Returns packed RGB as (H, W, channels): the frame's memory itself, or a copy where its rows are padded."""
    rows: NDArray[Any] = np.ascontiguousarray(_view_rows(frame.planes[0], dtype, channels * frame.width))
    return rows.reshape(frame.height, frame.width, channels)


def _view_float_planes(frame: VideoFrame) -> tuple[NDArray[np.float32], ...]:
    return tuple(_view_rows(plane, np.float32, plane.width) for plane in frame.planes)


def is_gray(pixel_format: VideoFormat) -> bool:
    """Tells whether frames of this format have no color."""
    return pixel_format.name.startswith(("gray", "ya8", "ya16", "mono"))


def component_bits(pixel_format: VideoFormat) -> int:
    """Returns the bits of a component, 8 to 16: 8 of formats with fewer, 16 of float."""
    return min(max(8, *(component.bits for component in pixel_format.components)), 16)


def has_transparency(pixel_format: VideoFormat) -> bool:
    """Tells whether frames of this format have an alpha channel; a palette counts as one that may."""
    return pixel_format.has_palette or any(component.is_alpha for component in pixel_format.components)


def find_subsampling(pixel_format: VideoFormat) -> str:
    """Returns "420", "422", "444", "440", "411" or "410" of a YUV format."""
    sides = (64 // pixel_format.chroma_width(64), 64 // pixel_format.chroma_height(64))
    return {(2, 2): "420", (2, 1): "422", (1, 1): "444", (1, 2): "440", (4, 1): "411", (4, 4): "410"}[sides]


def _planar_yuv_name(subsampling: str, bits: int, is_transparent: bool) -> str:
    return f"yuv{'a' if is_transparent else ''}{subsampling}p" + (f"{bits}le" if bits > 8 else "")


def _bands(height: int, width: int) -> list[slice]:
    rows = max(1, BAND_PX // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _round_codes(values: NDArray[np.float32], largest: int) -> NDArray[np.uint16]:
    """Rounds codes and clamps them to 0..largest; `values` is used as scratch memory."""
    values += np.float32(0.5)
    np.clip(values, 0, largest, out=values)
    return values.astype(np.uint16)


def _shift_codes(codes: NDArray[np.uint16], bits: int) -> NDArray[Any]:
    """Rounds codes of DEEP_BITS to `bits`; codes of white stay below the next power of two."""
    shift = DEEP_BITS - bits
    rounded: NDArray[Any] = (codes.astype(np.uint32) + ((1 << shift) >> 1)) >> shift  # half a code more may overflow 16 bits
    return rounded.clip(max=(1 << bits) - 1)


def _convert_levels(levels: NDArray[Any] | None, shape: tuple[int, int], bits: int) -> NDArray[Any]:
    """Converts full-range uint8 or uint16 levels to those of `bits`, or of float32 where `bits` is 0; None stands for all white."""
    if levels is None:
        levels = np.full(shape, 255, np.uint8)
    source_bits = 8 * levels.dtype.itemsize
    if bits == 0:
        white = np.float32((1 << source_bits) - 1)
        converted: NDArray[Any] = levels.astype(np.float32) / white
    elif bits == source_bits:
        return levels
    else:
        converted = np.take(_make_code_table(source_bits, True, bits, True, False), levels)
    return converted


def _make_palette_frame(rgb: Frame, transparency: NDArray[Any] | None) -> VideoFrame:
    """Reduces a frame to a palette of its own, of 255 colors and one that is transparent below half."""
    image = Image.fromarray(np.ascontiguousarray(rgb)).quantize(
        255, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG
    )
    indices = np.array(image)
    colors = np.frombuffer(image.palette.tobytes() if image.palette else b"", np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)
    palette[: len(colors), 1:], palette[:255, 0] = colors, 255
    if transparency is not None:
        indices[_convert_levels(transparency, rgb.shape[:2], 8) < 128] = 255
    return VideoFrame.from_ndarray((indices, palette), format="pal8")  # type: ignore[arg-type]  # a pair, for this format


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

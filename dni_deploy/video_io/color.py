"""Colour: how a film's numbers stand for colours, and the way from them to AVCOL_SPC_RGB and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from dni_deploy.errors import InputError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.video_io.y4m import CHROMA_SUBSAMPLING, compute_plane_sizes

SWSCALE_COLORSPACES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020", 10: "BT2020"}
"""AVCOL_SPC_* of a frame -> the name that the scaler has for it; two enumerations that share numbers and not meanings."""

AVCOL_SPC_RGB, AVCOL_SPC_UNSPECIFIED = 0, 2
"""Of AVCOL_SPC_*; AVCOL_SPC_UNSPECIFIED is 2 for primaries and transfer, too."""

AVCOL_RANGE_FULL = 2
"""Of AVCOL_RANGE_*: black is 0 and white 255; else 16 and 235."""

MIN_BT709_HEIGHT_PX = 720
"""From this height on untagged video is taken for BT.709, below for BT.601, as players do."""


@dataclass(frozen=True)
class ColorSpec:
    """Matrix (the film's own AVCOL_SPC_* number), range, primaries and transfer, as they are written to the output again.

    guessed  the film does not say its matrix, so that of its height is taken.
    """

    matrix: int
    is_full_range: bool
    primaries: int
    transfer: int
    is_guessed: bool

    @classmethod
    def from_frame(cls, frame: VideoFrame) -> ColorSpec:
        """As the frame is tagged, completed by the usual rule. Raises InputError for a matrix that the scaler does not know."""
        matrix = int(frame.colorspace)
        usual = 1 if frame.height >= MIN_BT709_HEIGHT_PX else 6
        primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
        if frame.format.is_rgb or frame.format.has_palette or matrix == AVCOL_SPC_RGB:
            return cls(usual, False, primaries, transfer, False)
        full = int(frame.color_range) == AVCOL_RANGE_FULL or frame.format.name.startswith("yuvj")
        if matrix == AVCOL_SPC_UNSPECIFIED:
            return cls(usual, full, primaries, transfer, not frame.format.name.startswith("gray"))
        if matrix in SWSCALE_COLORSPACES and SWSCALE_COLORSPACES[matrix] not in Colorspace.__members__:
            raise InputError(
                f"The film's colour matrix is {SWSCALE_COLORSPACES[matrix]}, which PyAV knows from version 18 on (Python 3.11); convert the film to "
                "BT.709 first."
            )
        if matrix not in SWSCALE_COLORSPACES:
            raise InputError(
                f"The film's colour matrix is number {matrix} of AVCOL_SPC, which cannot be turned into RGB here; "
                "convert it to BT.709 first."
            )
        return cls(matrix, full, primaries, transfer, False)

    @property
    def swscale_colorspace(self) -> str:
        return SWSCALE_COLORSPACES[self.matrix]

    @property
    def swscale_range(self) -> str:
        """The scaler's name for it."""
        return "JPEG" if self.is_full_range else "MPEG"

    def __str__(self) -> str:
        name = {"ITU709": "BT.709", "ITU601": "BT.601", "BT2020": "BT.2020"}.get(
            self.swscale_colorspace, escape_name(self.swscale_colorspace)
        )
        return f"{name}, {'full' if self.is_full_range else 'limited'} range"


class ToRgbConverter:
    """From a decoded frame to uint8 (H, W, 3), turned upright. Belongs to one thread; it keeps the scaler's tables."""

    def __init__(self, color: ColorSpec, rotation: int = 0) -> None:
        self._color, self._quarter_turns = color, rotation // 90 % 4
        self._scaler = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Frame:
        """A fresh array. The colour that is given here wins over the frame's tags."""
        if frame.format.is_rgb or frame.format.has_palette:
            flat = self._scaler.reformat(frame, format="rgb24")
        else:
            flat = self._scaler.reformat(
                frame,
                format="rgb24",
                src_colorspace=self._color.swscale_colorspace,  # type: ignore[arg-type]  # PyAV takes the name; its stub says int
                src_color_range=self._color.swscale_range,
                dst_color_range="JPEG",
            )
        rgb: Frame = flat.to_ndarray()  # type: ignore[assignment]
        return np.ascontiguousarray(np.rot90(rgb, self._quarter_turns)) if self._quarter_turns else rgb


class FromRgbConverter:
    """From uint8 (H, W, 3) to a frame to encode, padded to even sides. Belongs to one thread."""

    def __init__(self, color: ColorSpec, pixel_format: str = "yuv420p") -> None:
        self._color, self._pixel_format = color, pixel_format
        self._scaler = VideoReformatter()

    def __call__(self, rgb: Frame) -> VideoFrame:
        """A fresh frame without a timestamp, tagged with matrix and range."""
        even = np.ascontiguousarray(pad_to_even(rgb))
        return self._scaler.reformat(
            VideoFrame.from_numpy_buffer(even, format="rgb24"),
            format=self._pixel_format,
            dst_colorspace=self._color.swscale_colorspace,  # type: ignore[arg-type]
            src_color_range="JPEG",
            dst_color_range=self._color.swscale_range,
        )


def pad_size_to_even(width: int, height: int) -> tuple[int, int]:
    """Sides that 4:2:0 can hold: odd ones get one pixel more."""
    return width + width % 2, height + height % 2


def pad_to_even(rgb: Frame) -> Frame:
    """The picture with its last column and row repeated where a side is odd; itself if none is."""
    height, width = rgb.shape[:2]
    if height % 2 or width % 2:
        return np.pad(rgb, [(0, height % 2), (0, width % 2), (0, 0)], "edge")
    return rgb


SWSCALE_FORMATS = {(2, 2): "yuv420p", (2, 1): "yuv422p", (1, 1): "yuv444p", None: "yuv444p"}
"""swscale's format for each sharing of chroma. Grey goes with flat chroma: swscale takes "gray" for full range always."""

TO_RGB_SCALER_FLAGS = 0x4 | 0x2000 | 0x4000 | 0x40000

FROM_RGB_SCALER_FLAGS = 0x4
"""swscale.h: SWS_BICUBIC, and on the way to RGB FULL_CHR_H_INT, FULL_CHR_H_INP and ACCURATE_RND. A photograph in 4:2:0 that goes
there and back keeps its luma at 75 dB and its chroma at 57 dB; at PyAV's defaults at 46 and 55."""

NEUTRAL_CHROMA = 128
"""The chroma of grey."""


def choose_matrix(matrix: str, height: int) -> Literal["709", "601"]:
    """The matrix of frames with that many lines; `matrix` is "auto", "709" or "601"."""
    hd = height >= MIN_BT709_HEIGHT_PX if matrix == "auto" else matrix == "709"
    return "709" if hd else "601"


class ColorConverter:
    """Converts frames of one size, chroma and range; keeps swscale's tables between frames, so it is for one thread.

    matrix: "709" or "601".  full_range: black and white are 0 and 255 instead of 16 and 235.
    """

    def __init__(self, width: int, height: int, chroma: str, matrix: str, full_range: bool) -> None:
        self.width, self.height = width, height
        self.plane_sizes = compute_plane_sizes(width, height, chroma)
        self.pixel_format = SWSCALE_FORMATS[CHROMA_SUBSAMPLING[chroma]]
        self._matrix = Colorspace.ITU709 if matrix == "709" else Colorspace.ITU601
        self._range = ColorRange.JPEG if full_range else ColorRange.MPEG
        self._scaler = VideoReformatter()

    def to_rgb(self, planes: tuple[NDArray[np.uint8], ...]) -> Frame:
        """uint8 planes of `plane_sizes` -> uint8 (H, W, 3), a fresh array."""
        frame = av.VideoFrame(self.width, self.height, self.pixel_format)
        for index, plane in enumerate(frame.planes):
            _view_plane(plane, plane.width)[:] = planes[index] if index < len(planes) else NEUTRAL_CHROMA
        rgb = self._scaler.reformat(
            frame,
            format="rgb24",
            interpolation=TO_RGB_SCALER_FLAGS,
            src_colorspace=self._matrix,
            src_color_range=self._range,
            dst_color_range=ColorRange.JPEG,
        )
        return np.array(_view_plane(rgb.planes[0], 3 * self.width)).reshape(self.height, self.width, 3)

    def from_rgb(self, frame: Frame, out: tuple[NDArray[np.uint8], ...]) -> None:
        """uint8 (H, W, 3) -> the planes `out`, of `plane_sizes`, which are filled."""
        rgb = av.VideoFrame(self.width, self.height, "rgb24")
        _view_plane(rgb.planes[0], 3 * self.width)[:] = frame.reshape(self.height, 3 * self.width)
        converted = self._scaler.reformat(
            rgb,
            format=self.pixel_format,
            interpolation=FROM_RGB_SCALER_FLAGS,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=self._matrix,
            dst_color_range=self._range,
        )
        for plane, target in zip(converted.planes, out, strict=False):  # a grey picture has no use for the other two
            target[:] = _view_plane(plane, plane.width)


def _view_plane(plane: Any, row_bytes: int) -> NDArray[np.uint8]:
    """A view of the plane's own memory, uint8 (rows, row_bytes), without what swscale adds to each row."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, :row_bytes]

"""Colour: planes of Y'CbCr to RGB and back, by swscale through PyAV.

y4m says the range (XCOLORRANGE) and never the matrix, so that is an option, and by default what players take for untagged
video: BT.709 from 720 lines, BT.601 below.
"""

from __future__ import annotations

from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from dni_deploy.imaging.frames import Frame
from dni_deploy.video_io.color import MIN_BT709_HEIGHT_PX
from dni_deploy.video_io.y4m import CHROMA_SUBSAMPLING, compute_plane_sizes

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

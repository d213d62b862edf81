"""HDR metadata of a video: the mastering display and the content's light level, read from a frame, written for encoders."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

MASTERING_DISPLAY = struct.Struct("=20i2i")
"""FFmpeg's AVMasteringDisplayMetadata: ten rationals (x and y of red, green, blue and white, then the least and the largest
luminance in cd/m2), and whether the primaries and the luminances are there."""

LIGHT_LEVEL = struct.Struct("=2I")
"""FFmpeg's AVContentLightMetadata: MaxCLL and MaxFALL in cd/m2."""

TRANSFER_NAMES = {16: "PQ", 18: "HLG"}
"""AVCOL_TRC_* of HDR."""

LINEAR_TRANSFER = 8
"""AVCOL_TRC_LINEAR, as OpenEXR has it."""

DYNAMIC_METADATA = {
    Type.DYNAMIC_HDR_PLUS: "HDR10+",
    Type.DOVI_RPU_BUFFER: "Dolby Vision",
    Type.DOVI_METADATA: "Dolby Vision",
    Type.DYNAMIC_HDR_VIVID: "HDR Vivid",
}
"""Metadata of single frames, which is not carried."""


@dataclass(frozen=True)
class MasteringDisplay:
    """The display on which a video was graded (SMPTE ST 2086).

    Attributes:
        primaries: x and y of red, green and blue.
        white_point: x and y of white.
        min_luminance: In cd/m2.
        max_luminance: In cd/m2.
    """

    primaries: tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction], tuple[Fraction, Fraction]]
    white_point: tuple[Fraction, Fraction]
    min_luminance: Fraction
    max_luminance: Fraction


@dataclass(frozen=True)
class HdrMetadata:
    """What a video says about its own brightness.

    Attributes:
        mastering: The mastering display, or None.
        light_level: MaxCLL and MaxFALL in cd/m2, or None.
    """

    mastering: MasteringDisplay | None
    light_level: tuple[int, int] | None

    @classmethod
    def from_frame(cls, frame: VideoFrame) -> HdrMetadata | None:
        """Reads the metadata of a frame; None where it has none."""
        mastering = light_level = None
        side_data: Any = frame.side_data  # PyAV's own annotation has the keys
        for data in side_data:
            if data.type == Type.MASTERING_DISPLAY_METADATA:
                mastering = _parse_mastering(bytes(data))
            elif data.type == Type.CONTENT_LIGHT_LEVEL:
                light_level = LIGHT_LEVEL.unpack_from(bytes(data))
        return None if mastering is None and light_level is None else cls(mastering, light_level)

    def encoder_options(self, codec: str) -> dict[str, str]:
        """Returns the options with which an encoder writes this into the stream; empty where it has none for that."""
        if codec == "libx265":
            return {"x265-params": ":".join(self._list_x265_parameters())}
        if codec == "libsvtav1":
            return {"svtav1-params": ":".join(self._list_svt_parameters())}
        return {}

    def _list_x265_parameters(self) -> Iterator[str]:
        """x265 takes chromaticities in units of 0.00002 and luminances in units of 0.0001 cd/m2."""
        if self.mastering is not None:
            red, green, blue = (_format_point(point, 50_000) for point in self.mastering.primaries)
            white = _format_point(self.mastering.white_point, 50_000)
            low, high = (round(value * 10_000) for value in (self.mastering.min_luminance, self.mastering.max_luminance))
            yield f"master-display=G{green}B{blue}R{red}WP{white}L({high},{low})"
        if self.light_level is not None:
            yield "max-cll={},{}".format(*self.light_level)
        yield "hdr10=1"

    def _list_svt_parameters(self) -> Iterator[str]:
        if self.mastering is not None:
            red, green, blue = (f"({float(x):.5f},{float(y):.5f})" for x, y in self.mastering.primaries)
            white = "({:.5f},{:.5f})".format(*map(float, self.mastering.white_point))
            low, high = float(self.mastering.min_luminance), float(self.mastering.max_luminance)
            yield f"mastering-display=G{green}B{blue}R{red}WP{white}L({high:.4f},{low:.4f})"
        if self.light_level is not None:
            yield "content-light={},{}".format(*self.light_level)


def list_dynamic_metadata(frame: VideoFrame) -> list[str]:
    """Lists the kinds of metadata of single frames that a frame has."""
    side_data: Any = frame.side_data
    return sorted({DYNAMIC_METADATA[data.type] for data in side_data if data.type in DYNAMIC_METADATA})


def _format_point(point: tuple[Fraction, Fraction], units: int) -> str:
    return f"({round(point[0] * units)},{round(point[1] * units)})"


def _parse_mastering(data: bytes) -> MasteringDisplay | None:
    *numbers, has_primaries, has_luminance = MASTERING_DISPLAY.unpack_from(data)
    if not (has_primaries and has_luminance) or not all(numbers[1::2]):
        return None
    values = [Fraction(numerator, denominator) for numerator, denominator in list(pairwise(numbers))[::2]]
    points = tuple(pairwise(values[:8]))[::2]
    return MasteringDisplay((points[0], points[1], points[2]), points[3], values[8], values[9])

"""Key frames from which every later frame is decoded as it is from the beginning of the video, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from av.packet import Packet
from av.video.stream import VideoStream

CLEAN_KEY_FRAME_CODECS = ("mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "av1", "ffv1")
"""Codecs between frames of which none, once decoded from a key frame, looks behind it; frames shown before it are not meant."""

H264_IDR, H264_SEI, H264_SPS = 5, 6, 7
HEVC_IRAP, HEVC_SPS = range(16, 22), 33
RECOVERY_POINT = 6
"""Types of NAL units and of the message of H.264 that says from where on a video can be decoded.

Source: ITU-T H.264 table 7-1 and D.1.8; H.265 table 7-1.
"""


class KeyFrameChecker:
    """Tells exact key frames of one stream.

    An H.264 encoder may let frames behind a key frame look at frames before it (open GOP, periodic intra refresh). Exact are
    IDR pictures, and those with a recovery point of 0 frames that says it is exact.

    Thread safety: For one thread.
    """

    def __init__(self, stream: VideoStream) -> None:
        """Prepares for a stream."""
        codec = stream.codec_context.codec
        self._codec = codec.canonical_name
        self._is_intra_only = codec.intra_only
        self._length_bytes = _read_length_bytes(self._codec, stream.codec_context.extradata or b"")

    def is_exact(self, packet: Packet[Any]) -> bool:
        """Tells whether a packet, which is marked as a key frame, is exact where the decoder has the parameter sets."""
        if self._is_intra_only or self._codec in CLEAN_KEY_FRAME_CODECS:
            return True
        if self._codec not in ("h264", "hevc"):
            return False
        for unit in self._split_units(bytes(packet)):
            if self._codec == "hevc" and (unit[0] >> 1 & 63) in HEVC_IRAP:
                return True
            if self._codec == "h264" and (unit[0] & 31 == H264_IDR or (unit[0] & 31 == H264_SEI and _has_exact_recovery(unit))):
                return True
        return False

    def has_parameter_sets(self, packet: Packet[Any]) -> bool:
        """Tells whether a packet of H.264 or HEVC brings a sequence parameter set."""
        if self._codec == "h264":
            return any(unit[0] & 31 == H264_SPS for unit in self._split_units(bytes(packet)))
        return self._codec == "hevc" and any(unit[0] >> 1 & 63 == HEVC_SPS for unit in self._split_units(bytes(packet)))

    def _split_units(self, data: bytes) -> Iterator[bytes]:
        """Splits a packet into NAL units, each at least one byte, by lengths or by start codes."""
        if not self._length_bytes:
            yield from (unit for unit in data.split(b"\0\0\1") if unit)
            return
        position = 0
        while position + self._length_bytes < len(data):
            size = int.from_bytes(data[position : position + self._length_bytes], "big")
            position += self._length_bytes
            if size:
                yield data[position : position + size]
            position += size


def _read_length_bytes(codec: str, extradata: bytes) -> int:
    """Reads how many bytes the length of a NAL unit has; 0: units are found by start codes (ISO 14496-15, 5.3.3 and 8.3.3)."""
    if codec == "h264" and len(extradata) > 4 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21 and extradata[0] == 1:
        return (extradata[21] & 3) + 1
    return 0


def _has_exact_recovery(unit: bytes) -> bool:
    """Tells whether an SEI unit has a recovery point of 0 frames that is exact (H.264 D.1.8): its bits are 1 and 1."""
    position = 1
    while position + 2 < len(unit):
        kind, position = _read_sum(unit, position)
        size, position = _read_sum(unit, position)
        if kind == RECOVERY_POINT and size and position < len(unit):
            return unit[position] >> 6 == 3
        position += size
    return False


def _read_sum(data: bytes, position: int) -> tuple[int, int]:
    """Reads a number that is written as a sum of bytes, all but the last of them 255; returns it and the place behind it."""
    total = 0
    while position < len(data):
        total += data[position]
        position += 1
        if data[position - 1] != 255:
            break
    return total, position

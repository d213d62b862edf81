"""Matroska files of a few bytes, in memory: the way to give FFmpeg's muxers side data that PyAV reads and cannot make.

A stream that is added from a template keeps the template's HDR metadata, and a packet that was read keeps what lies beside it.
Source: RFC 9559; PyAV 18 has no other way.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from dni_deploy.video_io.hdr import HdrMetadata

CODEC_IDS = {
    "h264": b"V_MPEG4/ISO/AVC",
    "hevc": b"V_MPEGH/ISO/HEVC",
    "av1": b"V_AV1",
    "vp8": b"V_VP8",
    "vp9": b"V_VP9",
    "prores": b"V_PRORES",
    "ffv1": b"V_FFV1",
    "mpeg2video": b"V_MPEG2",
}
"""FFmpeg's name of a codec -> Matroska's."""

EBML_HEADER = "1A45DFA3"
SEGMENT, INFO, TRACKS, CLUSTER = "18538067", "1549A966", "1654AE6B", "1F43B675"


def _element(identifier: str, *parts: bytes) -> bytes:
    """Makes an element of EBML; the length takes eight bytes, whose first says so."""
    body = b"".join(parts)
    return bytes.fromhex(identifier) + struct.pack(">Q", 1 << 56 | len(body)) + body


def _number(identifier: str, value: int) -> bytes:
    return _element(identifier, value.to_bytes(8, "big"))


def _real(identifier: str, value: Any) -> bytes:
    return _element(identifier, struct.pack(">d", float(value)))


def _make_file(codec: str, video: bytes, *blocks: bytes) -> bytes:
    track = _element("AE", _number("D7", 1), _number("73C5", 1), _number("83", 1), _element("86", CODEC_IDS[codec]), video)
    return b"".join(
        [
            _element(EBML_HEADER, _element("4282", b"matroska"), _number("4287", 4), _number("4285", 2)),
            _element(
                SEGMENT,
                _element(INFO, _number("2AD7B1", 1_000_000)),
                _element(TRACKS, track),
                _element(CLUSTER, _number("E7", 0), *blocks),
            ),
        ]
    )


@contextmanager
def _open(data: bytes) -> Iterator[InputContainer]:
    with av.open(io.BytesIO(data), "r", format="matroska") as container:
        yield container


@contextmanager
def open_hdr_template(codec: str, width: int, height: int, hdr: HdrMetadata) -> Iterator[VideoStream | None]:
    """Opens a stream that has HDR metadata and nothing else, for `OutputContainer.add_stream_from_template`.

    Args:
        codec: FFmpeg's name of the codec.
        width: In pixels.
        height: In pixels.
        hdr: The metadata.

    Yields:
        The stream, valid inside the context; None for a codec that is none of CODEC_IDS.
    """
    if codec not in CODEC_IDS:
        yield None
        return
    color = b""
    if hdr.light_level is not None:
        color += _number("55BC", hdr.light_level[0]) + _number("55BD", hdr.light_level[1])
    if hdr.mastering is not None:
        coordinates = [value for point in (*hdr.mastering.primaries, hdr.mastering.white_point) for value in point]
        values = [*coordinates, hdr.mastering.max_luminance, hdr.mastering.min_luminance]
        color += _element("55D0", *(_real(f"55D{index:X}", value) for index, value in enumerate(values, 1)))
    video = _element("E0", _number("B0", width), _number("BA", height), _element("55B0", color))
    with _open(_make_file(codec, video)) as container:
        yield container.streams.video[0]


def make_packet_with_transparency(codec: str, data: bytes, transparency: bytes) -> Packet[Any]:
    """Makes a packet of VP8 or VP9 with the packet of its transparency beside it.

    Args:
        codec: "vp8" or "vp9".
        data: The picture's packet.
        transparency: The transparency's packet.
    """
    video = _element("E0", _number("B0", 16), _number("BA", 16), _number("53C0", 1))
    block = _element("A1", b"\x81\x00\x00\x00", data)  # track 1, time 0, no flags
    additions = _element("75A1", _element("A6", _number("EE", 1), _element("A5", transparency)))
    with _open(_make_file(codec, video, _element("A0", block, additions))) as container:
        return next(packet for packet in container.demux(video=0) if packet.size)

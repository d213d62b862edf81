"""Which decoder a video stream gets."""

from __future__ import annotations

from collections.abc import Callable

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dni_deploy.video_io.color import has_transparency

TRANSPARENT_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Codec -> the decoder that reads its transparency, which lies beside the picture; FFmpeg's own leave it out without a word."""

DecodeFunction = Callable[["Packet[VideoStream]"], "list[VideoFrame]"]


def has_separate_transparency(codec: str, pixel_format: str) -> bool:
    """Tells whether an encoder writes transparency into packets beside those of the picture, as those of VP8 and VP9 do."""
    return av.Codec(codec, "w").canonical_name in TRANSPARENT_DECODERS and has_transparency(VideoFormat(pixel_format))


def says_transparent(stream: VideoStream) -> bool:
    """Tells whether the file says that the transparency of this VP8 or VP9 stream lies beside its picture."""
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    return tags.get("alpha_mode") == "1" and stream.codec_context.codec.canonical_name in TRANSPARENT_DECODERS


def make_decode_function(stream: VideoStream) -> DecodeFunction:
    """Makes the function that decodes a packet of a stream; a packet without data flushes the decoder."""
    if not says_transparent(stream) or stream.codec_context.is_hwaccel:
        return lambda packet: packet.decode()
    name = TRANSPARENT_DECODERS[stream.codec_context.codec.canonical_name]
    if name not in av.codecs_available:
        return lambda packet: packet.decode()
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, VideoCodecContext)
    for tag in (
        "colorspace",
        "color_range",
        "color_primaries",
        "color_trc",
    ):  # what the container says; VP8 itself says nothing
        setattr(decoder, tag, getattr(stream.codec_context, tag))
    return decoder.decode

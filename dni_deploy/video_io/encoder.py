"""Encoder: frames to packets, opened anew for every segment, so that no segment needs another one to be decoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import av
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from dni_deploy.errors import EnvironmentProblem, UsageError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.video_io.color import Colour, FromRgb, even_size
from dni_deploy.video_io.video_file import Source

QUALITY = {
    "libx264": "crf",
    "libx265": "crf",
    "libvpx-vp9": "crf",
    "libsvtav1": "crf",
    "libaom-av1": "crf",
    "h264_nvenc": "cq",
    "hevc_nvenc": "cq",
    "av1_nvenc": "cq",
}
"""What each encoder calls the number that --crf is."""

PIXELS = "yuv420p"
"""What every player shows."""


@dataclass(frozen=True)
class EncoderSettings:
    """codec by FFmpeg's name; crf and preset None: not given to the encoder."""

    codec: str = "libx264"
    crf: int | None = 18
    preset: str | None = "veryfast"

    @property
    def options(self) -> dict[str, str]:
        """As the encoder calls them. Raises UsageError where it has no such option."""
        made: dict[str, str] = {}
        if self.crf is not None:
            if self.codec not in QUALITY:
                raise UsageError(f"--crf is for {', '.join(QUALITY)}; {shown(self.codec)} has no such number, leave it out.")
            made[QUALITY[self.codec]] = str(self.crf)
        if self.preset is not None:
            made["preset"] = self.preset
        if self.codec == "libx265":
            made["x265-params"] = "log-level=none"
        return made

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def settings(codec: str, crf: int | None, preset: str | None) -> EncoderSettings:
    """Settings with the defaults of x264 and x265 where nothing is given. Raises UsageError on a codec that is unknown."""
    try:
        found = av.Codec(codec, "w")
    except (av.error.FFmpegError, ValueError):
        raise UsageError(f"There is no encoder {shown(codec)!r} here; common ones are {', '.join(QUALITY)}.") from None
    if found.type != "video":
        raise UsageError(f"{shown(codec)} encodes {shown(found.type)}, not video.")
    if codec in ("libx264", "libx265"):
        return EncoderSettings(codec, 18 if crf is None else crf, preset or "veryfast")
    return EncoderSettings(codec, crf, preset)


@dataclass(frozen=True)
class Target:
    """What is encoded: even width and height, the source's time base, rate, pixel aspect and colour."""

    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    aspect: Fraction | None
    colour: Colour

    @classmethod
    def of(cls, source: Source, scale: int) -> Target:
        width, height = even_size(source.width * scale, source.height * scale)
        return cls(width, height, source.time_base, source.rate, source.aspect, source.colour)

    def prepare(self, context: VideoCodecContext) -> None:
        context.width, context.height, context.pix_fmt = self.width, self.height, PIXELS
        context.framerate = self.rate
        context.time_base = self.time_base  # before the first frame, or the timestamps would be rounded to the frame rate
        if self.aspect is not None:
            context.sample_aspect_ratio = self.aspect
        context.colorspace, context.color_range = self.colour.matrix, 2 if self.colour.full else 1
        context.color_primaries, context.color_trc = self.colour.primaries, self.colour.transfer


def add_video(output: OutputContainer, chosen: EncoderSettings, target: Target) -> VideoStream:
    """A video stream that packets of such an encoder can be muxed to: an encoder is opened for its header alone."""
    stream = output.add_stream(chosen.codec, rate=target.rate, options=chosen.options)
    assert isinstance(stream, VideoStream)
    target.prepare(stream.codec_context)
    stream.time_base = target.time_base
    return stream


class Encoder:
    """One segment's encoder. Belongs to one thread."""

    def __init__(self, chosen: EncoderSettings, target: Target, *, header: bool) -> None:
        """header: the container keeps the encoder's header.

        Raises UsageError (options that it does not take), EnvironmentProblem (it does not work here, or not at this size).
        """
        try:
            context = _opened(chosen.codec, chosen.options, target, header)
        except (av.error.FFmpegError, ValueError) as error:
            told = ", ".join(f"{name} {shown(value)}" for name, value in chosen.options.items())
            if chosen.options and _works(chosen.codec, target):
                raise UsageError(f"The encoder {shown(chosen.codec)} does not take {told}.") from error
            raise EnvironmentProblem(
                f"The encoder {shown(chosen.codec)} could not be opened here for {target.width}x{target.height} "
                f"({shown(getattr(error, 'strerror', error))}); try another --codec."
            ) from error
        self._context = context
        self._from_rgb = FromRgb(target.colour, PIXELS)
        self._chosen = chosen

    def encode(self, rgb: Frame, pts: int) -> Iterable[Packet[Any]]:
        """The packets that are ready; the frame's own may come later."""
        frame = self._from_rgb(rgb)
        frame.pts, frame.time_base = pts, self._context.time_base
        frame.color_primaries, frame.color_trc = self._context.color_primaries, self._context.color_trc
        return self._sent(frame)

    def finish(self) -> Iterable[Packet[Any]]:
        """The packets that are left."""
        return self._sent(None)

    def _sent(self, frame: av.VideoFrame | None) -> Iterable[Packet[Any]]:
        try:
            return self._context.encode(frame)
        except av.error.FFmpegError as error:
            raise EnvironmentProblem(f"The encoder {shown(self._chosen.codec)} failed ({shown(error.strerror)}).") from error


def _opened(codec: str, options: dict[str, str], target: Target, header: bool) -> VideoCodecContext:
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, VideoCodecContext)
    target.prepare(context)
    context.options = options
    context.flags |= Flags.closed_gop.value
    if header:
        context.flags |= Flags.global_header.value
    context.open()
    return context


def _works(codec: str, target: Target) -> bool:
    """Whether it is the options that it does not like."""
    try:
        _opened(codec, {}, target, False)
    except (av.error.FFmpegError, ValueError):
        return False
    return True

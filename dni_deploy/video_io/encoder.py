"""Encoding frames to packets, with a new encoder for every segment, so that no segment needs another one to be decoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from dni_deploy.errors import UnavailableError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.video_io.color import ColorConverter, ColorSpec
from dni_deploy.video_io.video_file import VideoFile

QUALITY_OPTION_BY_ENCODER = {
    "libx264": "crf",
    "libx265": "crf",
    "libvpx-vp9": "crf",
    "libsvtav1": "crf",
    "libaom-av1": "crf",
    "h264_nvenc": "cq",
    "hevc_nvenc": "cq",
    "av1_nvenc": "cq",
}
"""What each encoder calls the number of --crf."""

OUTPUT_PIXEL_FORMAT = "yuv420p"
"""The format that every player shows."""


def pad_size_to_even(width: int, height: int) -> tuple[int, int]:
    """Returns the sides that 4:2:0 can hold: an odd side gets one pixel more."""
    return width + width % 2, height + height % 2


def pad_to_even(rgb: Frame) -> Frame:
    """Repeats the last column or row of a frame where that side is odd; returns the frame itself where none is."""
    height, width = rgb.shape[:2]
    if height % 2 or width % 2:
        return np.pad(rgb, [(0, height % 2), (0, width % 2), (0, 0)], "edge")
    return rgb


DEFAULT_SEGMENT_FRAMES = 250
"""Frames of a segment: the distance of key frames that x264 takes by itself, so that segments cost next to nothing."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How video is encoded.

    Attributes:
        codec: An encoder by FFmpeg's name.
        crf: Its quality, lower is better; None: 18 for libx264 and libx265, and not given to other encoders.
        preset: Its speed; None: "veryfast" for libx264 and libx265, and not given to other encoders.
        segment_frames: Number of frames of a segment. A stopped run goes on behind its last whole segment.

    Raises:
        UsageError: There is no such encoder here, or a segment has no frame.
    """

    codec: str = "libx264"
    crf: int | None = None
    preset: str | None = None
    segment_frames: int = DEFAULT_SEGMENT_FRAMES

    def __post_init__(self) -> None:
        if self.segment_frames < 1:
            raise UsageError(f"A segment has at least 1 frame; got {self.segment_frames}.")
        try:
            codec = av.Codec(self.codec, "w")
        except (av.error.FFmpegError, ValueError):
            raise UsageError(
                f"There is no encoder {escape_name(self.codec)!r} here; common ones are {', '.join(QUALITY_OPTION_BY_ENCODER)}."
            ) from None
        if codec.type != "video":
            raise UsageError(f"{escape_name(self.codec)} encodes {escape_name(codec.type)}, not video.")
        if self.codec in ("libx264", "libx265"):
            object.__setattr__(self, "crf", 18 if self.crf is None else self.crf)
            object.__setattr__(self, "preset", self.preset or "veryfast")

    @property
    def options(self) -> dict[str, str]:
        """The options under the encoder's own names.

        Raises:
            UsageError: The encoder has no such option.
        """
        options: dict[str, str] = {}
        if self.crf is not None:
            if self.codec not in QUALITY_OPTION_BY_ENCODER:
                raise UsageError(
                    f"--crf is for {', '.join(QUALITY_OPTION_BY_ENCODER)}; {escape_name(self.codec)} has no such number, "
                    "leave it out."
                )
            options[QUALITY_OPTION_BY_ENCODER[self.codec]] = str(self.crf)
        if self.preset is not None:
            options["preset"] = self.preset
        if self.codec == "libx265":
            options["x265-params"] = "log-level=none"
        return options

    def to_json(self) -> dict[str, Any]:
        """Describes what each encoded frame depends on."""
        return {"codec": self.codec, "crf": self.crf, "preset": self.preset}


@dataclass(frozen=True)
class OutputFormat:
    """What is encoded.

    Attributes:
        width: Even width in pixels.
        height: Even height in pixels.
        time_base: Seconds per tick, as in the source.
        frame_rate: Frames per second, as in the source.
        pixel_aspect: Width over height of a pixel as shown, or None.
        color: What the codes mean.
    """

    width: int
    height: int
    time_base: Fraction
    frame_rate: Fraction
    pixel_aspect: Fraction | None
    color: ColorSpec

    @classmethod
    def from_video_file(cls, video_file: VideoFile, scale: int) -> OutputFormat:
        """Returns the format of a video that is `scale` times as wide and high as its source."""
        width, height = pad_size_to_even(video_file.width * scale, video_file.height * scale)
        return cls(width, height, video_file.time_base, video_file.frame_rate, video_file.pixel_aspect, video_file.color)

    def configure_context(self, context: VideoCodecContext) -> None:
        """Prepares an encoder that is not open yet."""
        context.width, context.height, context.pix_fmt = self.width, self.height, OUTPUT_PIXEL_FORMAT
        context.framerate = self.frame_rate
        context.time_base = self.time_base  # before the first frame, or the timestamps would be rounded to the frame rate
        if self.pixel_aspect is not None:
            context.sample_aspect_ratio = self.pixel_aspect
        self.color.tag(context)


def add_video_stream(output: OutputContainer, settings: EncoderOptions, output_format: OutputFormat) -> VideoStream:
    """Adds a video stream for packets of such an encoder; an encoder is opened for its header alone.

    Raises:
        ValueError: The container cannot hold what the encoder makes.
    """
    stream = output.add_stream(settings.codec, rate=output_format.frame_rate, options=settings.options)
    assert isinstance(stream, VideoStream)
    output_format.configure_context(stream.codec_context)
    stream.time_base = output_format.time_base
    return stream


class Encoder:
    """The encoder of one segment.

    Thread safety: For one thread.
    """

    def __init__(self, settings: EncoderOptions, output_format: OutputFormat, *, global_header: bool) -> None:
        """Opens the encoder.

        Args:
            settings: The encoder and its options.
            output_format: What is encoded.
            global_header: The container keeps the encoder's header.

        Raises:
            UsageError: The encoder does not take the options.
            UnavailableError: The encoder does not work here, or not at this size.
        """
        try:
            context = _open_codec(settings.codec, settings.options, output_format, global_header)
        except (av.error.FFmpegError, ValueError) as error:
            name = escape_name(settings.codec)
            if settings.options and _can_open_without_options(settings.codec, output_format):
                options = ", ".join(f"{option} {escape_name(value)}" for option, value in settings.options.items())
                raise UsageError(f"The encoder {name} does not take {options}.") from error
            raise UnavailableError(
                f"The encoder {name} could not be opened here for {output_format.width}x{output_format.height} "
                f"({escape_name(getattr(error, 'strerror', error))}); try another --codec."
            ) from error
        self._context = context
        self._color_converter = ColorConverter(output_format.color, OUTPUT_PIXEL_FORMAT)
        self._settings = settings

    def encode(self, rgb: Frame, pts: int) -> Iterable[Packet[Any]]:
        """Encodes a frame.

        Args:
            rgb: uint8 (H, W, 3); odd sides are padded.
            pts: Timestamp in ticks.

        Returns:
            The packets that are ready; that of the frame itself may come later.

        Raises:
            UnavailableError: The encoder failed.
        """
        frame = self._color_converter.from_rgb(pad_to_even(rgb))
        frame.pts, frame.time_base = pts, self._context.time_base
        return self._encode_frame(frame)

    def flush(self) -> Iterable[Packet[Any]]:
        """Returns the packets that are left; no frame may follow."""
        return self._encode_frame(None)

    def _encode_frame(self, frame: av.VideoFrame | None) -> Iterable[Packet[Any]]:
        try:
            return self._context.encode(frame)
        except av.error.FFmpegError as error:
            raise UnavailableError(
                f"The encoder {escape_name(self._settings.codec)} failed ({escape_name(error.strerror)})."
            ) from error


def _open_codec(codec: str, options: dict[str, str], output_format: OutputFormat, global_header: bool) -> VideoCodecContext:
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, VideoCodecContext)
    output_format.configure_context(context)
    context.options = options
    context.flags |= Flags.closed_gop.value
    if global_header:
        context.flags |= Flags.global_header.value
    context.open()
    return context


def _can_open_without_options(codec: str, output_format: OutputFormat) -> bool:
    """Tells whether it is the options that the encoder does not take."""
    try:
        _open_codec(codec, {}, output_format, False)
    except (av.error.FFmpegError, ValueError):
        return False
    return True

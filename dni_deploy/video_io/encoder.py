"""Encoding frames to packets, with a new encoder for every segment, so that no segment needs another one to be decoded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dni_deploy.errors import UnavailableError, UsageError, escape_name
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.video_io.color import ColorConverter, ColorSpec, is_gray
from dni_deploy.video_io.containers import CONSTANT_RATE_MUXERS, DEFAULT_ENCODER, ENCODER_BY_MUXER
from dni_deploy.video_io.decoder import has_separate_transparency
from dni_deploy.video_io.hdr import HdrMetadata
from dni_deploy.video_io.matroska import CODEC_IDS, open_hdr_template
from dni_deploy.video_io.pixel_formats import DEFAULT_FORMAT, check_pixel_format, choose_alignment, rank_pixel_formats
from dni_deploy.video_io.scheduling import keep_scheduling
from dni_deploy.video_io.video_file import VideoFile

COMMON_ENCODERS = (
    "libx264", "libx265", "libvpx-vp9", "libsvtav1", "libaom-av1", "prores_ks", "dnxhd", "ffv1", "h264_nvenc", "hevc_nvenc",
)  # fmt: skip
"""Encoders that a message names, as far as they are there."""

QUALITY_OPTIONS = ("crf", "cq")
"""What encoders call the number of --crf."""

DNXHR_PROFILES = {"yuv422p": "dnxhr_hq", "yuv422p10le": "dnxhr_hqx", "yuv444p10le": "dnxhr_444", "gbrp10le": "dnxhr_444"}
"""The profile of the encoder dnxhd for any size, by pixel format; without one, it takes a few sizes and bit rates alone."""

TRANSPARENCY_MUXERS = ("matroska", "webm")
"""The containers that have a place for packets of transparency beside those of the picture."""

HDR_MUXERS = ("mp4", "mov", "matroska", "webm")
"""The containers that have a place for HDR metadata."""

QUALITY_SCALES = {
    "mjpeg": 2, "mpeg1video": 3, "mpeg2video": 3, "mpeg4": 3, "msmpeg4": 3, "msmpeg4v2": 3, "wmv1": 3, "wmv2": 3, "flv": 3,
    "h263": 3, "h263p": 3,
}  # fmt: skip
"""FFmpeg's -q for encoders of old, nearly their best; without it, they aim at 200 kbit a second, whatever the size."""

FF_QP2LAMBDA = 118
"""What FFmpeg multiplies -q by."""

VP9_CRF = "24"
"""The quality of libvpx-vp9 where none is chosen; without it, the encoder aims at 256 kbit a second."""

SVT_LOG_VARIABLE, SVT_LOG_ERRORS = "SVT_LOG", "1"
"""SVT-AV1 prints its settings on stderr unless this variable of the environment says otherwise."""


def pad_frame(pixels: NDArray[Any], alignment: tuple[int, int]) -> NDArray[Any]:
    """Repeats the last column and row until width and height are multiples of `alignment`; the array itself where they are."""
    height, width = pixels.shape[:2]
    right, bottom = -width % alignment[0], -height % alignment[1]
    if right or bottom:
        return np.pad(pixels, [(0, bottom), (0, right), *[(0, 0)] * (pixels.ndim - 2)], "edge")
    return pixels


DEFAULT_SEGMENT_FRAMES = 250
"""Frames of a segment: the distance of key frames that x264 takes by itself, so that segments cost next to nothing."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How video is encoded.

    Attributes:
        codec: An encoder or codec by FFmpeg's name; becomes the encoder's own. "": libx264, or what suits the container.
        crf: Its quality, lower is better; None: 18 for libx264 and libx265, and not given to other encoders.
        preset: Its speed; None: "veryfast" for libx264 and libx265, and not given to other encoders.
        pixel_format: The pixel format by FFmpeg's name; None: the nearest to the source's that the encoder has.
        encoder_options: Further options by FFmpeg's names, such as tune or b; "tag" is the four letters of the codec in the
            container.
        segment_frames: Number of frames of a segment. A stopped run goes on behind its last whole segment.

    Raises:
        UsageError: There is no such encoder here, it has no such option or pixel format, or a segment has no frame.
    """

    codec: str = ""
    crf: int | None = None
    preset: str | None = None
    pixel_format: str | None = None
    encoder_options: Mapping[str, str] = field(default_factory=dict)
    segment_frames: int = DEFAULT_SEGMENT_FRAMES
    _for_any_codec: EncoderOptions | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.segment_frames < 1:
            raise UsageError(f"A segment has at least 1 frame; got {self.segment_frames}.")
        if not self.codec:  # what was given for it is checked when the container is known
            object.__setattr__(self, "_for_any_codec", copy(self))
        codec = _find_encoder(self.codec or DEFAULT_ENCODER)
        object.__setattr__(self, "codec", codec.name)
        if self._for_any_codec is None:
            if self.pixel_format is not None:
                check_pixel_format(codec, self.pixel_format)
            self._check_option_names()
        if self.codec in ("libx264", "libx265"):
            object.__setattr__(self, "crf", 18 if self.crf is None and not self._chooses_rate() else self.crf)
            object.__setattr__(self, "preset", self.preset or self.encoder_options.get("preset", "veryfast"))

    def for_muxer(self, muxer: str) -> EncoderOptions:
        """Returns the options with the encoder that suits a container, where none was named."""
        return self.with_default_codec(ENCODER_BY_MUXER.get(muxer, DEFAULT_ENCODER))

    def with_default_codec(self, codec: str) -> EncoderOptions:
        """Returns the options with this encoder, where none was named."""
        return self if self._for_any_codec is None else replace(self._for_any_codec, codec=codec)

    def _chooses_rate(self) -> bool:
        return not {"b", "qp", "crf"}.isdisjoint(self.encoder_options)

    def _check_option_names(self) -> None:
        names = self.option_names
        unknown = [name for name in self.encoder_options if name not in names and name != "tag"]
        if unknown:
            private = ", ".join(sorted(option.name for option in self._create_context().supported_options.private))
            raise UsageError(
                f"The encoder {escape_name(self.codec)} has no option {escape_name(unknown[0])!r}; its own are "
                f"{escape_name(private, 800) or 'none'}. Nothing was written."
            )
        tag = self.encoder_options.get("tag")
        if tag is not None and not (len(tag) == 4 and tag.isascii()):
            raise UsageError(f"A tag has four letters, such as hvc1; got {escape_name(tag)!r}.")
        if self.crf is not None and self._quality_option() is None:
            raise UsageError(
                f"--crf is a number that {escape_name(self.codec)} does not have; leave it out, or set its own options with "
                "--encoder-option."
            )
        if self.preset is not None and "preset" not in names:
            raise UsageError(f"The encoder {escape_name(self.codec)} has no presets; leave --preset out.")

    def _create_context(self) -> VideoCodecContext:
        context = av.CodecContext.create(self.codec, "w")
        assert isinstance(context, VideoCodecContext)
        return context

    @property
    def option_names(self) -> set[str]:
        """The names of all options that the encoder has."""
        supported = self._create_context().supported_options
        return {option.name for option in (*supported.generic, *supported.private)}

    def _quality_option(self) -> str | None:
        names = self.option_names
        return next((name for name in QUALITY_OPTIONS if name in names), None)

    @property
    def given_options(self) -> dict[str, str]:
        """The options that the user chose, or that stand for such, under the encoder's own names."""
        options: dict[str, str] = {}
        quality = self._quality_option()
        if self.crf is not None and quality is not None:
            options[quality] = str(self.crf)
        if self.preset is not None:
            options["preset"] = self.preset
        return {**options, **{name: value for name, value in self.encoder_options.items() if name != "tag"}}

    def to_json(self) -> dict[str, Any]:
        """Describes what each encoded frame depends on."""
        described: dict[str, Any] = {"codec": self.codec, "crf": self.crf, "preset": self.preset}
        if self.encoder_options:
            described["options"] = dict(self.encoder_options)
        return described


def _find_encoder(name: str) -> av.Codec:
    try:
        codec = av.Codec(name, "w")
    except (av.error.FFmpegError, ValueError):
        there = ", ".join(common for common in COMMON_ENCODERS if common in av.codecs_available)
        raise UsageError(f"There is no encoder {escape_name(name)!r} here; common ones are {there}.") from None
    if codec.type != "video":
        raise UsageError(f"{escape_name(name)} encodes {escape_name(codec.type)}, not video.")
    return codec


@dataclass(frozen=True)
class OutputFormat:
    """What is encoded.

    Attributes:
        width: Width in pixels, a multiple of what the pixel format needs.
        height: Height in pixels, likewise.
        time_base: Seconds per tick, as in the source.
        frame_rate: Frames per second, as in the source.
        pixel_aspect: Width over height of a pixel as shown, or None.
        color: What the codes mean.
        pixel_format: The pixel format, by FFmpeg's name.
        closed_gop: Whether the encoder is asked that no group of pictures refers to another one.
        counts_frames: Whether the encoder counts frames instead of ticks, where it takes no ticks as fine as the source's.
        reorders: Whether frames may be encoded in another order than they are shown in.
        hdr: HDR metadata for the encoder's and the container's headers, or None.
    """

    width: int
    height: int
    time_base: Fraction
    frame_rate: Fraction
    pixel_aspect: Fraction | None
    color: ColorSpec
    pixel_format: str = DEFAULT_FORMAT
    closed_gop: bool = True
    counts_frames: bool = False
    reorders: bool = True
    hdr: HdrMetadata | None = None

    @classmethod
    def from_video_file(cls, video_file: VideoFile, scale: int, pixel_format: str = DEFAULT_FORMAT) -> OutputFormat:
        """Returns the format of a video that is `scale` times as wide and high as its source."""
        width, height = video_file.width * scale, video_file.height * scale
        across, down = choose_alignment(pixel_format)
        color = video_file.color
        if pixel_format.startswith("yuvj") or is_gray(VideoFormat(pixel_format)):
            color = replace(color, is_full_range=True)
        return cls(
            width + -width % across,
            height + -height % down,
            video_file.time_base,
            video_file.frame_rate,
            video_file.pixel_aspect,
            color,
            pixel_format,
            hdr=video_file.hdr,
        )

    @property
    def encoder_time_base(self) -> Fraction:
        """Seconds per tick of the encoder's own timestamps."""
        return 1 / self.frame_rate if self.counts_frames else self.time_base

    def configure_context(self, context: VideoCodecContext) -> None:
        """Prepares an encoder that is not open yet."""
        self.describe_picture(context)
        # Before the first frame, or the timestamps would be rounded to the frame rate.
        context.time_base = self.encoder_time_base

    def describe_picture(self, context: VideoCodecContext) -> None:
        """Tells a context everything but how time is counted."""
        context.width, context.height, context.pix_fmt = self.width, self.height, self.pixel_format
        context.framerate = self.frame_rate
        if self.pixel_aspect is not None:
            context.sample_aspect_ratio = self.pixel_aspect
        self.color.tag(context)


def choose_output_format(settings: EncoderOptions, video_file: VideoFile, scale: int, muxer: str) -> OutputFormat:
    """Finds the format of the output by opening the encoder.

    The pixel format is the one that was asked for, or the nearest to the source's with which the encoder opens.

    Args:
        settings: The encoder and its options.
        video_file: The source.
        scale: The output is that many times as wide and high.
        muxer: FFmpeg's muxer.

    Raises:
        UsageError: The encoder does not take an option, by name.
        UnavailableError: The encoder does not work here, or not at this size.
    """
    codec = av.Codec(settings.codec, "w")
    names = [settings.pixel_format] if settings.pixel_format else rank_pixel_formats(codec, video_file.pixel_format)
    if muxer not in TRANSPARENCY_MUXERS:
        opaque = [name for name in names if not has_separate_transparency(settings.codec, name)]
        if settings.pixel_format and not opaque:
            raise UsageError(
                f"A {muxer} file has no place for the transparency of {escape_name(settings.codec)}; name an output that ends in "
                ".webm or .mkv, or another --pix-fmt. Nothing was written."
            )
        names = opaque
    error: Exception | None = None
    global_header, reorders = keeps_encoder_header(muxer), muxer not in CONSTANT_RATE_MUXERS
    formats = [replace(output_format, reorders=reorders) for output_format in _list_output_formats(video_file, scale, names)]
    for output_format in formats:
        try:
            _open_encoder(settings, output_format, global_header)
        except (av.error.FFmpegError, ValueError, OverflowError) as failure:
            error = error or failure
            if settings.given_options and _can_open(settings, output_format, {}):
                break  # an option is at fault; with other formats it would be refused again
        else:
            return output_format
    assert error is not None
    raise _explain_refusal(settings, formats, error) from error


def _list_output_formats(video_file: VideoFile, scale: int, pixel_formats: Iterable[str]) -> Iterator[OutputFormat]:
    """Lists what is tried, the nearest to the source first."""
    for name in pixel_formats:
        plain = OutputFormat.from_video_file(video_file, scale, name)
        yield plain
        yield replace(plain, closed_gop=False)  # mpeg4 and its kind have none together with scene detection
        yield replace(plain, closed_gop=False, counts_frames=True)  # MPEG-4 counts at most 65535 ticks a second


def _explain_refusal(settings: EncoderOptions, formats: list[OutputFormat], error: Exception) -> UsageError | UnavailableError:
    name, reason = escape_name(settings.codec), escape_name(getattr(error, "strerror", None) or error)
    given = settings.given_options
    working = next((output_format for output_format in formats if given and _can_open(settings, output_format, {})), None)
    if working is not None:
        for key in given:
            without = {other: value for other, value in given.items() if other != key}
            if _can_open(settings, working, without):
                return UsageError(
                    f"The encoder {name} does not take {key}={escape_name(given[key])} ({reason}). Nothing was written."
                )
        listed = ", ".join(f"{key}={escape_name(value)}" for key, value in given.items())
        return UsageError(f"The encoder {name} does not take {listed} together ({reason}). Nothing was written.")
    tried = ", ".join(dict.fromkeys(output_format.pixel_format for output_format in formats))
    return UnavailableError(
        f"The encoder {name} could not be opened here for {formats[0].width}x{formats[0].height}, {float(formats[0].frame_rate):g} "
        f"frames/s and the pixel format {tried} ({reason}); try another --codec, or its own options with --encoder-option."
    )


def keeps_encoder_header(muxer: str) -> bool:
    """Tells whether a container keeps the encoder's header, so that it is not in the packets."""
    flags: Any = av.ContainerFormat(muxer, "w").flags
    return bool(flags & av.format.Flags.global_header.value)


def add_video_stream(output: OutputContainer, settings: EncoderOptions, output_format: OutputFormat) -> VideoStream:
    """Adds a video stream for packets of such an encoder; an encoder is opened for its header alone.

    Raises:
        ValueError: The container cannot hold what the encoder makes.
    """
    stream = _add_hdr_stream(output, settings, output_format)
    if stream is None:
        options = _make_options(settings, output_format, settings.given_options)
        added = output.add_stream(settings.codec, rate=output_format.frame_rate, options=options)
        assert isinstance(added, VideoStream)
        stream = added
        output_format.configure_context(stream.codec_context)
    tag = settings.encoder_options.get("tag") or choose_tag(stream.codec_context.codec, output.format.name)
    if tag is not None:
        stream.codec_context.codec_tag = tag
    is_constant = output.format.name in CONSTANT_RATE_MUXERS
    stream.time_base = 1 / output_format.frame_rate if is_constant else output_format.time_base
    return stream


def keeps_hdr(settings: EncoderOptions, output_format: OutputFormat, muxer: str) -> bool:
    """Tells whether HDR metadata, if there is any, goes into the stream or the container."""
    hdr, codec = output_format.hdr, av.Codec(settings.codec, "w").canonical_name
    return hdr is None or bool(hdr.encoder_options(settings.codec)) or (muxer in HDR_MUXERS and codec in CODEC_IDS)


def _add_hdr_stream(output: OutputContainer, settings: EncoderOptions, output_format: OutputFormat) -> VideoStream | None:
    """Adds the stream where HDR metadata goes into the container's own header; None where it does not."""
    codec = av.Codec(settings.codec, "w").canonical_name
    if output_format.hdr is None or output.format.name not in HDR_MUXERS:
        return None
    with open_hdr_template(codec, output_format.width, output_format.height, output_format.hdr) as template:
        if template is None:
            return None
        stream = output.add_stream_from_template(template, opaque=True)
    encoder = _open_encoder(settings, output_format, keeps_encoder_header(output.format.name))
    output_format.describe_picture(stream.codec_context)
    stream.codec_context.extradata = encoder.extradata
    return stream


def choose_tag(codec: av.Codec, muxer: str) -> str | None:
    """Returns the tag of a codec in a container where it is to be another than FFmpeg's: QuickTime and Safari play hvc1 alone."""
    return "hvc1" if codec.canonical_name == "hevc" and muxer in ("mp4", "mov") else None


class Encoder:
    """The encoder of one segment.

    Thread safety: For one thread.
    """

    def __init__(self, settings: EncoderOptions, output_format: OutputFormat, *, global_header: bool) -> None:
        """Opens the encoder.

        Args:
            settings: The encoder and its options.
            output_format: What is encoded; with `choose_output_format`, one that the encoder takes.
            global_header: The container keeps the encoder's header.

        Raises:
            UsageError: The encoder does not take the options.
            UnavailableError: The encoder does not work here, or not at this size.
        """
        try:
            self._context = _open_encoder(settings, output_format, global_header)
        except (av.error.FFmpegError, ValueError) as error:
            raise _explain_refusal(settings, [output_format], error) from error
        self._color_converter = ColorConverter(output_format.color, output_format.pixel_format)
        self._alignment = choose_alignment(output_format.pixel_format)
        self._settings, self._output_format = settings, output_format
        self._pts_by_number: dict[int, int] = {}
        self._frames = 0

    def encode(self, rgb: AnyFrame, pts: int, transparency: NDArray[Any] | None = None) -> Iterable[Packet[Any]]:
        """Encodes a frame.

        Args:
            rgb: uint8 or uint16 (H, W, 3); padded where the pixel format needs even sides.
            pts: Timestamp in ticks.
            transparency: uint8 or uint16 (H, W), or None.

        Returns:
            The packets that are ready; that of the frame itself may come later.

        Raises:
            UnavailableError: The encoder failed.
        """
        if transparency is not None:
            transparency = pad_frame(transparency, self._alignment)
        frame = self._color_converter.from_rgb(pad_frame(rgb, self._alignment), transparency)
        if self._output_format.counts_frames:
            self._pts_by_number[self._frames] = pts
            pts = self._frames
        self._frames += 1
        frame.pts, frame.time_base = pts, self._output_format.encoder_time_base
        return self._encode_frame(frame)

    def flush(self) -> Iterable[Packet[Any]]:
        """Returns the packets that are left; no frame may follow."""
        return self._encode_frame(None)

    def _encode_frame(self, frame: av.VideoFrame | None) -> Iterable[Packet[Any]]:
        try:
            packets = self._context.encode(frame)
        except av.error.FFmpegError as error:
            raise UnavailableError(
                f"The encoder {escape_name(self._settings.codec)} failed ({escape_name(error.strerror)})."
            ) from error
        if self._output_format.counts_frames:
            for packet in packets:
                packet.pts = self._pts_by_number.pop(packet.pts) if packet.pts in self._pts_by_number else packet.pts
        return packets


def _make_options(settings: EncoderOptions, output_format: OutputFormat, given: Mapping[str, str]) -> dict[str, str]:
    """Adds to the options what the encoder needs by itself; lists such as x265-params are joined."""
    own = output_format.hdr.encoder_options(settings.codec) if output_format.hdr is not None else {}
    if settings.codec == "libx265":
        own["x265-params"] = ":".join(filter(None, ["log-level=none", own.get("x265-params", "")]))
    elif settings.codec in QUALITY_SCALES and not {"b", "global_quality", "qmin", "flags"} & given.keys():
        own.update(flags="+qscale", global_quality=str(QUALITY_SCALES[settings.codec] * FF_QP2LAMBDA))
    elif settings.codec == "dnxhd" and output_format.pixel_format in DNXHR_PROFILES:
        own["profile"] = DNXHR_PROFILES[output_format.pixel_format]
    elif settings.codec == "libsvtav1":
        os.environ.setdefault(SVT_LOG_VARIABLE, SVT_LOG_ERRORS)
    if settings.codec == "libvpx-vp9" and not {"b", "crf"} & given.keys():
        own.update(crf=VP9_CRF, b="0")
    if has_separate_transparency(settings.codec, output_format.pixel_format):
        own["auto-alt-ref"] = "0"  # libvpx has no transparency together with frames that are not shown
    if not output_format.reorders and "bf" in settings.option_names:
        own["bf"] = "0"
    if av.Codec(settings.codec, "w").experimental:
        own["strict"] = "experimental"
    joined = {name: f"{own[name]}:{value}" for name, value in given.items() if name.endswith("-params") and name in own}
    return {**own, **given, **joined}


def _open_encoder(
    settings: EncoderOptions, output_format: OutputFormat, global_header: bool, given: Mapping[str, str] | None = None
) -> VideoCodecContext:
    context = av.CodecContext.create(settings.codec, "w")
    assert isinstance(context, VideoCodecContext)
    output_format.configure_context(context)
    context.options = _make_options(settings, output_format, settings.given_options if given is None else given)
    if output_format.closed_gop:
        context.flags |= Flags.closed_gop.value
    if global_header:
        context.flags |= Flags.global_header.value
    with keep_scheduling():
        context.open()
    return context


def _can_open(settings: EncoderOptions, output_format: OutputFormat, given: Mapping[str, str]) -> bool:
    """Tells whether an encoder opens with these options."""
    try:
        _open_encoder(settings, output_format, False, given)
    except (av.error.FFmpegError, ValueError, OverflowError):
        return False
    return True

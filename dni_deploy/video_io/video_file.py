"""A video file to read: what it is, and how it is opened without following references to anything else."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
from av.codec.hwaccel import HWAccel, HWDeviceType, hwdevices_available
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dni_deploy.errors import InputError, RefusedError, UnavailableError, UsageError, escape_name
from dni_deploy.imaging.orientation import Orientation
from dni_deploy.video_io.color import ColorSpec, has_transparency
from dni_deploy.video_io.containers import ALLOWED_DEMUXERS, describe_unread
from dni_deploy.video_io.decoder import make_decode_function, says_transparent
from dni_deploy.video_io.hdr import LINEAR_TRANSFER, TRANSFER_NAMES, HdrMetadata, list_dynamic_metadata
from dni_deploy.video_io.image_sequence import DEFAULT_FRAME_RATE, is_image_sequence, link_frames
from dni_deploy.video_io.raw_formats import parse_rate
from dni_deploy.video_io.timestamps import TimeJumps, find_time_jumps
from dni_deploy.video_io.video_part import VideoPart

PLAYLIST_SIGNATURES = (
    b"#EXTM3U",
    b"ffconcat",
    b"<MPD",
    b"v=0",
    b"[playlist]",
    b"[Reference]",
    b"<ASX",
    b"<smil",
    b"<SmoothStreamingMedia",
)
"""How files begin that name other files."""

UNKNOWN_ORIENTATION_NOTE = "its display matrix is neither a turn by a multiple of 90 degrees nor a mirror image: not applied"

PROBED_FRAMES = 25
"""Number of frames at the beginning, one of which must be marked as interlaced for the marks to be trusted."""

COPIED_STREAM_TYPES = ("audio", "subtitle", "attachment")
"""The types of streams that are copied unless something else is chosen."""

DROPPED_TYPES = {"audio": "audio", "subtitles": "subtitle", "data": "data", "attachments": "attachment"}
"""What can be left out by name -> FFmpeg's name of the type."""


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How a video is read, and which of its streams are kept.

    Attributes:
        hwaccel: The hardware that decodes, such as "cuda"; None: the CPU.
        streams: Indices of the streams to keep, the video to process among them or not; None: all that the output can hold.
        drop: What to leave out: "audio", "subtitles", "data", "attachments", or the index of a stream.
        deinterlace: Make whole frames of interlaced ones, as many as there were.
        start: Time of the first frame, such as "1:23", "2.5s" or "75f"; None: the beginning.
        end: Time at which to stop; None: the end.
        preview: A duration and a time, such as "2s@1:23", in place of both.
        fps: Frames per second of pictures, such as "24" or "30000/1001"; None: 25.

    Raises:
        UsageError: An entry of `drop` is none of these, or a time is none.
    """

    hwaccel: str | None = None
    streams: tuple[int, ...] | None = None
    drop: tuple[str, ...] = ()
    deinterlace: bool = False
    start: str | None = None
    end: str | None = None
    preview: str | None = None
    fps: str | None = None

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second of pictures."""
        return DEFAULT_FRAME_RATE if self.fps is None else parse_rate(self.fps)

    def __post_init__(self) -> None:
        _ = self.frame_rate
        self.find_part(Fraction(25))  # refuses wrong times before anything is opened
        for entry in self.drop:
            if entry not in DROPPED_TYPES and not entry.isdecimal():
                raise UsageError(
                    f"{escape_name(entry)!r} cannot be dropped; name {', '.join(DROPPED_TYPES)}, or the index of a stream."
                )

    def find_part(self, frame_rate: Fraction) -> VideoPart | None:
        """Returns the part that is to be read, with frames counted by a rate; None for the whole video."""
        return VideoPart.parse(self.start, self.end, self.preview, frame_rate)

    def is_dropped(self, stream: Stream) -> bool:
        """Tells whether the user wants a stream to be left out."""
        if self.streams is not None and stream.index not in self.streams:
            return True
        return str(stream.index) in self.drop or stream.type in {DROPPED_TYPES.get(entry) for entry in self.drop}

    def check_streams_exist(self, container: InputContainer, path: Path) -> None:
        """Checks the indices.

        Raises:
            UsageError: There is no such stream.
        """
        for index in (*(self.streams or ()), *(int(entry) for entry in self.drop if entry.isdecimal())):
            if not 0 <= index < len(container.streams):
                listing = ", ".join(f"{stream.index} ({describe_stream(stream)})" for stream in container.streams)
                raise UsageError(f"{escape_name(path)} has no stream {index}; it has {listing}. Nothing was written.")


@dataclass(frozen=True)
class VideoFile:
    """What a video file is.

    Attributes:
        path: The file.
        stream_index: Index of the video stream.
        width: Width as shown, in pixels.
        height: Height as shown, in pixels.
        coded_size: Width and height as stored.
        orientation: How a stored frame becomes upright.
        time_base: Seconds per tick of every timestamp.
        start_pts: Timestamp of the first frame, in ticks.
        frame_rate: Frames per second on average, for the encoder and for estimates; never for timestamps.
        frame_count: Number of frames as far as the file says it or its duration lets estimate; 0: unknown.
        pixel_aspect: Width over height of a pixel as shown, or None.
        color: What the codes mean.
        copied_streams: Indices of the streams that are copied.
        is_interlaced: One of the first frames is marked as interlaced.
        time_jumps: Where its timestamps jump.
        notes: What a user should know about how the file was read, one phrase each.
        pixel_format: That of the decoded frames, by FFmpeg's name.
        hdr: What it says about its own brightness, or None.
        part: The part that is read; None: all of it.
    """

    path: Path
    stream_index: int
    width: int
    height: int
    coded_size: tuple[int, int]
    orientation: Orientation
    time_base: Fraction
    start_pts: int
    frame_rate: Fraction
    frame_count: int
    pixel_aspect: Fraction | None
    color: ColorSpec
    copied_streams: tuple[int, ...]
    notes: tuple[str, ...]
    pixel_format: str = "yuv420p"
    hdr: HdrMetadata | None = None
    part: VideoPart | None = None
    is_interlaced: bool = False
    time_jumps: TimeJumps = field(default_factory=TimeJumps)

    @property
    def first_number(self) -> int:
        """Number, in the whole video, of the first frame of the part."""
        return 0 if self.part is None else math.ceil(self.part.start * self.frame_rate)

    def find_seconds(self, pts: int) -> float:
        """Returns the time of a frame in seconds from the first one of the video."""
        return float((pts - self.start_pts) * self.time_base)

    def with_time_jumps(self) -> VideoFile:
        """Reads the whole file, where its format allows its timestamps to jump, and returns the file with its jumps."""
        with open_container(self.path) as container:
            return replace(self, time_jumps=find_time_jumps(container))


@contextmanager
def open_container(
    path: Path, hwaccel: str | None = None, frame_rate: Fraction = DEFAULT_FRAME_RATE
) -> Iterator[InputContainer]:
    """Opens a file for one thread. Only this file is read, whatever it says inside: no other file, no connection.

    Args:
        path: The file.
        hwaccel: Kind of hardware to decode on, such as "cuda", or None.
        frame_rate: Frames per second of pictures.

    Yields:
        The container.

    Raises:
        InputError: There is no such file, or it is no video.
        RefusedError: The file is a playlist.
        UsageError: There is no such kind of hardware decoder.
        UnavailableError: The hardware decoder does not work here, or not for this video.
    """
    if is_image_sequence(path):
        with link_frames(path) as pattern, _open_frames(path, pattern, frame_rate) as container:
            yield container
        return
    _check_is_video_file(path)
    # With the protocol spelled out, a name such as "concat:a|b" is a name and nothing else.
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(ALLOWED_DEMUXERS)}
    try:
        container = av.open(
            f"file:{path.absolute()}", options=options, hwaccel=_make_hwaccel(hwaccel), metadata_errors="replace"
        )
    except RuntimeError as error:  # PyAV's own: the codec is not one that this hardware decodes
        raise UnavailableError(
            f"The hardware decoder {escape_name(hwaccel)!r} does not decode {escape_name(path)}; leave --hwaccel out."
        ) from error
    except av.error.FFmpegError as error:
        if isinstance(error, av.error.EOFError):
            raise InputError(f"{escape_name(path)} ends before its first frame.") from error
        if hwaccel is not None and not isinstance(error, av.error.InvalidDataError):
            raise UnavailableError(
                f"The hardware decoder {escape_name(hwaccel)!r} could not be opened here ({escape_name(error.strerror)}); "
                "leave --hwaccel out."
            ) from error
        raise InputError(
            f"{escape_name(path)} could not be opened as a video ({escape_name(error.strerror)}). {describe_unread(path)}"
        ) from error
    with container:
        yield container


def _open_frames(path: Path, pattern: Path, frame_rate: Fraction) -> InputContainer:
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": "image2",
        "framerate": str(frame_rate),
        "pattern_type": "sequence",
    }
    try:
        return av.open(f"file:{pattern}", format="image2", options=options)
    except av.error.FFmpegError as error:
        raise InputError(f"The frames {escape_name(path)} could not be opened ({escape_name(error.strerror)}).") from error


def _check_is_video_file(path: Path) -> None:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{escape_name(path)} is not a file; a video is read from a file.")
        with open(path, "rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        hint = "; addresses are not opened" if "://" in str(path) or ":/" in str(path) else ""
        raise InputError(f"{escape_name(path)} does not exist{hint}.") from None
    except OSError as error:
        raise InputError(f"{escape_name(path)} could not be read ({error.strerror}).") from error
    if not head:
        raise InputError(f"{escape_name(path)} is empty.")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(PLAYLIST_SIGNATURES) or (
        text.startswith(b"<?xml") and any(mark in head for mark in PLAYLIST_SIGNATURES if mark[:1] == b"<")
    ):
        raise RefusedError(
            f"{escape_name(path)} is a playlist: it names other files or addresses, and none of them is opened. Name the video."
        )


def _make_hwaccel(name: str | None) -> HWAccel | None:
    if name is None:
        return None
    available = ", ".join(hwdevices_available())
    if name not in HWDeviceType.__members__:
        raise UsageError(f"There is no hardware decoder {escape_name(name)!r}; this PyAV has {available}.")
    if name not in hwdevices_available():
        raise UnavailableError(f"This PyAV was built without the hardware decoder {escape_name(name)!r}; it has {available}.")
    return HWAccel(name, allow_software_fallback=False)


def find_video_stream(container: InputContainer, path: Path, options: InputOptions | None = None) -> VideoStream:
    """Finds the video to process as FFmpeg and players do: the default one before others, the largest of several.

    Cover images are none.

    Raises:
        InputError: There is none, or it cannot be decoded here.
        UsageError: The options name several, or drop it.
    """
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not videos:
        raise InputError(f"{escape_name(path)} holds no video stream.")
    named = [stream for stream in videos if options is not None and stream.index in (options.streams or ())]
    if len(named) > 1:
        raise UsageError(
            f"Streams {' and '.join(str(stream.index) for stream in named)} of {escape_name(path)} are videos, "
            "and one video is processed; name one of them. Nothing was written."
        )
    left = named or [stream for stream in videos if options is None or str(stream.index) not in options.drop]
    decodable = [stream for stream in left if stream.codec_context is not None]
    if not left:
        raise UsageError(f"All videos of {escape_name(path)} are dropped, and one is to be processed. Nothing was written.")
    if not decodable:
        raise InputError(f"{escape_name(path)} holds video of a kind that cannot be decoded here.")
    return max(decodable, key=lambda stream: (bool(stream.disposition & Disposition.default), stream.width * stream.height))


def _choose_copied_streams(container: InputContainer, video: VideoStream, options: InputOptions) -> tuple[int, ...]:
    def is_copied(stream: Stream) -> bool:
        if stream.index == video.index or options.is_dropped(stream) or is_timecode(stream):
            return False
        is_cover = bool(stream.disposition & Disposition.attached_pic)
        return options.streams is not None or stream.type in COPIED_STREAM_TYPES or is_cover

    return tuple(stream.index for stream in container.streams if is_copied(stream))


def open_video_file(path: Path, options: InputOptions | None = None) -> VideoFile:
    """Reads what a video file is, from its header and its first good frame.

    Args:
        path: The file.
        options: How it is read, and what is kept of it.

    Raises:
        UsageError: The options name streams that do not exist.
        InputError: No frame can be decoded, and as `open_container`, whose other errors it raises, too.
    """
    options = options or InputOptions()
    if options.fps is not None and not is_image_sequence(path):
        raise UsageError(
            f"--fps is the rate of pictures, and {escape_name(path)} is a video with times of its own; leave it out."
        )
    with open_container(path, options.hwaccel, options.frame_rate) as container:
        options.check_streams_exist(container, path)
        stream = find_video_stream(container, path, options)
        first_frames = list(islice(_decode_good_frames(container, stream), PROBED_FRAMES if options.deinterlace else 1))
        if not first_frames:
            raise InputError(f"{escape_name(path)} holds no frame that can be decoded.")
        first = first_frames[0]
        if stream.time_base is None:
            raise InputError(f"{escape_name(path)} does not say how its timestamps are counted.")
        orientation = read_orientation(first)
        upright = orientation or Orientation()
        width, height = upright.orient_size(first.width, first.height)
        aspect = stream.sample_aspect_ratio or None
        rate = next((Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate), Fraction(30))
        rate = rate if 0 < rate <= 1000 else Fraction(30)
        part = options.find_part(rate)
        frame_count = stream.frames or _estimate_frame_count(container, stream, rate)
        copied_streams = _choose_copied_streams(container, stream, options)
        color = ColorSpec.from_frame(first)
        return VideoFile(
            path=path,
            stream_index=stream.index,
            width=width,
            height=height,
            coded_size=(first.width, first.height),
            orientation=upright,
            time_base=stream.time_base,
            start_pts=first.pts if first.pts is not None else 0,
            frame_rate=rate,
            frame_count=frame_count if part is None else _count_part(part, frame_count, rate),
            pixel_aspect=1 / aspect if aspect and upright.is_transposed else aspect,
            color=color,
            copied_streams=copied_streams,
            is_interlaced=any(frame.interlaced_frame for frame in first_frames),
            notes=(
                *_describe_conversions(stream, first, color, orientation),
                *_describe_left_out_streams(container, {stream.index, *copied_streams}, options),
            ),
            pixel_format=first.format.name,
            hdr=HdrMetadata.from_frame(first),
            part=part,
        )


def read_orientation(frame: VideoFrame) -> Orientation | None:
    """Reads the orientation of a frame from its display matrix; None where the matrix is none of the eight."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return Orientation() if matrix is None else Orientation.from_display_matrix(bytes(matrix))


def _decode_good_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    decode = make_decode_function(stream)
    for packet in container.demux(stream):
        if packet.is_corrupt:
            continue
        try:
            frames = decode(packet)
        except av.error.FFmpegError:
            continue
        yield from (frame for frame in frames if isinstance(frame, VideoFrame) and not frame.is_corrupt)


def _count_part(part: VideoPart, frame_count: int, rate: Fraction) -> int:
    """Estimates the number of frames of a part; 0: unknown."""
    first = math.ceil(part.start * rate)
    if part.end is None:
        return max(0, frame_count - first)
    last = math.ceil(part.end * rate)
    return max(0, min(last, frame_count or last) - first)


def _estimate_frame_count(container: InputContainer, stream: VideoStream, rate: Fraction) -> int:
    if stream.duration and stream.time_base:
        return round(stream.duration * stream.time_base * rate)
    return round(Fraction(container.duration, av.time_base) * rate) if container.duration else 0


def _describe_conversions(
    stream: VideoStream, frame: VideoFrame, color: ColorSpec, orientation: Orientation | None
) -> Iterator[str]:
    if color.is_guessed:
        yield f"not tagged with a color matrix: taken for {color} by its {frame.height} lines"
    if says_transparent(stream) and not has_transparency(frame.format):
        yield f"the transparency of {stream.codec_context.codec.canonical_name} is left out: this decoder does not read it"
    if color.transfer in TRANSFER_NAMES:
        yield f"{TRANSFER_NAMES[color.transfer]} (HDR): the network gets the codes as they are, as if they were SDR"
    if color.transfer == LINEAR_TRANSFER:
        yield "linear light: the network gets the codes as they are, and values above 1 are cut off"
    for kind in list_dynamic_metadata(frame):
        yield f"{kind} metadata of single frames is left out"
    if orientation is None:
        yield UNKNOWN_ORIENTATION_NOTE
    elif orientation:
        yield f"{orientation}: the frames are written upright"


def _describe_left_out_streams(container: InputContainer, kept: set[int], options: InputOptions) -> Iterator[str]:
    has_chapters = bool(container.chapters())
    for stream in container.streams:
        # The chapters of QuickTime are a data stream, too, and are written again from the list of chapters.
        is_chapters = has_chapters and stream.type == "data" and getattr(stream, "name", None) == "bin_data"
        if stream.index not in kept and not (options.is_dropped(stream) or is_timecode(stream) or is_chapters):
            yield f"stream {stream.index} ({describe_stream(stream)}) is left out"


def is_timecode(stream: Stream) -> bool:
    """Tells whether a stream is a QuickTime timecode track. The muxer writes it again, from the video's tag of that name."""
    return stream.type == "data" and "timecode" in stream.metadata


def describe_stream(stream: Stream) -> str:
    """Describes a stream by type, codec and language, such as "audio, aac, eng"."""
    kind = "cover image" if stream.disposition & Disposition.attached_pic else stream.type
    codec = stream.codec_context.name if stream.codec_context is not None else getattr(stream, "name", None)
    return ", ".join(escape_name(part, 60) for part in (kind, codec, stream.metadata.get("language")) if part)

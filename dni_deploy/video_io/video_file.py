"""A video file to read: what it is, and how it is opened without following references to anything else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.codec.hwaccel import HWAccel, HWDeviceType, hwdevices_available
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dni_deploy.errors import InputError, RefusedError, UnavailableError, UsageError, escape_name
from dni_deploy.imaging.orientation import Orientation
from dni_deploy.video_io.color import ColorSpec

ALLOWED_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,nut,ivf,gif,apng,yuv4mpegpipe,"
    "h264,hevc,obu,m4v"
)
"""The demuxers that may read a video: each reads one file. hls, dash, concat and sdp open others, and are not here."""

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

COPIED_STREAM_TYPES = ("audio", "subtitle", "attachment")
"""The types of streams that are copied as they are."""


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
        copied_streams: Indices of the streams that are copied, as far as the output can hold them.
        attachment_count: Number of attached files among them.
        notes: What a user should know about how the file was read, one phrase each.
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
    attachment_count: int
    notes: tuple[str, ...]


@contextmanager
def open_container(path: Path, hwaccel: str | None = None) -> Iterator[InputContainer]:
    """Opens a file for one thread. Only this file is read, whatever it says inside: no other file, no connection.

    Args:
        path: The file.
        hwaccel: Kind of hardware to decode on, such as "cuda", or None.

    Yields:
        The container.

    Raises:
        InputError: There is no such file, or it is no video.
        RefusedError: The file is a playlist.
        UsageError: There is no such kind of hardware decoder.
        UnavailableError: The hardware decoder does not work here, or not for this video.
    """
    _check_is_video_file(path)
    # With the protocol spelled out, a name such as "concat:a|b" is a name and nothing else.
    options = {"protocol_whitelist": "file", "format_whitelist": ALLOWED_DEMUXERS}
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
            f"{escape_name(path)} could not be opened as a video ({escape_name(error.strerror)}). It may be cut off, damaged, "
            "or of a kind that is not read here."
        ) from error
    with container:
        yield container


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


def find_video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Finds the first video stream that is not a cover image.

    Raises:
        InputError: There is none, or it cannot be decoded here.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise InputError(f"{escape_name(path)} holds video of a kind that cannot be decoded here.")
            return stream
    raise InputError(f"{escape_name(path)} holds no video stream.")


def open_video_file(path: Path, hwaccel: str | None = None) -> VideoFile:
    """Reads what a video file is, from its header and its first good frame.

    Args:
        path: The file.
        hwaccel: As for `open_container`.

    Raises:
        InputError: No frame can be decoded, and as `open_container`, whose other errors it raises, too.
    """
    with open_container(path, hwaccel) as container:
        stream = find_video_stream(container, path)
        first = _decode_first_frame(container, stream)
        if first is None:
            raise InputError(f"{escape_name(path)} holds no frame that can be decoded.")
        if stream.time_base is None:
            raise InputError(f"{escape_name(path)} does not say how its timestamps are counted.")
        orientation = read_orientation(first)
        upright = orientation or Orientation()
        width, height = upright.orient_size(first.width, first.height)
        aspect = stream.sample_aspect_ratio or None
        rate = next((Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate), Fraction(30))
        copied_streams = tuple(other.index for other in container.streams if other.type in COPIED_STREAM_TYPES)
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
            frame_rate=rate if 0 < rate <= 1000 else Fraction(30),
            frame_count=stream.frames or _estimate_frame_count(container, stream, rate),
            pixel_aspect=1 / aspect if aspect and upright.is_transposed else aspect,
            color=color,
            copied_streams=copied_streams,
            attachment_count=sum(container.streams[index].type == "attachment" for index in copied_streams),
            notes=tuple(_describe_conversions(container, stream, first, color, orientation, copied_streams)),
        )


def read_orientation(frame: VideoFrame) -> Orientation | None:
    """Reads the orientation of a frame from its display matrix; None where the matrix is none of the eight."""
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    return Orientation() if matrix is None else Orientation.from_display_matrix(bytes(matrix))


def _decode_first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    for packet in container.demux(stream):
        if packet.is_corrupt:
            continue
        try:
            for frame in packet.decode():
                if isinstance(frame, VideoFrame) and not frame.is_corrupt:
                    return frame
        except av.error.FFmpegError:
            continue
    return None


def _estimate_frame_count(container: InputContainer, stream: VideoStream, rate: Fraction) -> int:
    if stream.duration and stream.time_base:
        return round(stream.duration * stream.time_base * rate)
    return round(Fraction(container.duration, av.time_base) * rate) if container.duration else 0


def _describe_conversions(
    container: InputContainer,
    stream: VideoStream,
    frame: VideoFrame,
    color: ColorSpec,
    orientation: Orientation | None,
    copied_streams: tuple[int, ...],
) -> Iterator[str]:
    name = frame.format.name
    components = frame.format.components
    if color.is_guessed:
        yield f"not tagged with a color matrix: taken for {color} by its {frame.height} lines"
    elif frame.format.is_rgb:
        yield f"RGB in the video: written as {color}"
    if max(component.bits for component in components) > 8:
        yield f"{name} has more than 8 bits: processed and written with 8"
    if any(component.is_alpha for component in components):
        yield f"{name} is transparent: the transparency is left out"
    if not name.startswith(("yuv420", "yuvj420", "nv12", "p010", "gray", "yuva420")):
        yield f"{name} becomes 4:2:0"
    if frame.interlaced_frame:
        yield "interlaced: whole frames are processed, both fields together, and written as progressive; deinterlace first"
    if orientation is None:
        yield "its display matrix is neither a turn by a multiple of 90 degrees nor a mirror image: not applied"
    elif orientation:
        yield f"{orientation}: the frames are written upright"
    for other in container.streams:
        if other.index != stream.index and other.index not in copied_streams:
            yield f"stream {other.index} ({_describe_stream_type(other)}) is left out"


def _describe_stream_type(stream: Stream) -> str:
    return "another video" if stream.type == "video" else escape_name(stream.type)

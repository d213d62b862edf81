"""The frames of a video file as RGB, one after the other, and how many of them were lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dni_deploy.errors import InputError, LimitError, escape_name
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.imaging.transparency import fill_hidden_colors
from dni_deploy.video_io.color import ColorConverter
from dni_deploy.video_io.decoder import DecodeFunction, make_decode_function
from dni_deploy.video_io.deinterlace import Deinterlacer
from dni_deploy.video_io.frame_index import DroppedFrames, FrameIndex, IndexMismatchError, KeyFrame
from dni_deploy.video_io.video_file import InputOptions, VideoFile, open_container

TRUSTED_DURATION_FORMATS = ("matroska", "mov", "flv", "avi")
"""Formats whose header says how long the video is; for others FFmpeg estimates it from the end of the file itself."""

INDEXED_FORMATS = ("matroska", "mov")
"""Formats whose index says exactly where key frames are."""

TIMED_STREAM_TYPES = ("video", "audio", "subtitle")
"""The types of streams whose packets have timestamps."""

PULLDOWN_CODECS = ("mpeg2video",)
"""Codecs in which a frame can be marked to be shown for three fields: soft telecine, as on DVDs of films."""

MAX_CONSECUTIVE_READ_ERRORS = 1000
"""Number of packets in a row that cannot be read after which the rest of the file is given up."""


class SizeChangeError(InputError):
    """The frames change their size. Whoever reads the video again comes to the same place."""

    kind = "SizeChangeError"


class DecodedFrame(NamedTuple):
    """One frame.

    Attributes:
        number: Number among those that are read, from 0; without a part, in the video.
        pts: Timestamp in ticks of the source.
        duration: Duration in ticks of the source, or 0.
        rgb: uint8 or uint16 (H, W, 3), upright.
        transparency: uint8 or uint16 (H, W), upright; None where the video has none or it was not asked for.
        is_interlaced: It is marked as interlaced.
        has_pulldown: It is marked to be shown for three fields.
    """

    number: int
    pts: int
    duration: int
    rgb: AnyFrame
    transparency: NDArray[Any] | None = None
    is_interlaced: bool = False
    has_pulldown: bool = False


@dataclass(frozen=True)
class FrameRange:
    """Consecutive frames of a video, by an index of it.

    Attributes:
        index: The index.
        first: Number of the first frame.
        end: Number of the frame behind the last one.
        from_beginning: Decode all frames before them, too, whatever key frames there are.
    """

    index: FrameIndex
    first: int
    end: int
    from_beginning: bool = False

    def find_key_frame(self) -> KeyFrame | None:
        """Returns the key frame to begin at; None for the beginning."""
        return None if self.from_beginning else self.index.find_key_frame(self.first)


class VideoReader:
    """Reads a video file once.

    Attributes:
        video_file: The file.
        is_skipped: Tells of the number of a good frame whether it is decoded and not given.
        options: How the file is read.
        frame_range: The frames that are read, and compared with their index; None: all.
        keeps_depth: Frames of more than 8 bits become uint16; else all are uint8.
        keeps_transparency: Frames have their transparency, and colors under it that nobody sees are replaced.
        dropped_frames: What was lost; complete after the last frame, if all are read.
        has_gaps: Bytes were skipped between packets, which is a loss where frames are missing there.

    Thread safety: For one thread.
    """

    def __init__(
        self,
        video_file: VideoFile,
        *,
        is_skipped: Callable[[int], bool] = lambda number: False,
        options: InputOptions | None = None,
        frame_range: FrameRange | None = None,
        keeps_depth: bool = False,
        keeps_transparency: bool = False,
    ) -> None:
        """Prepares to read; see the attributes."""
        self.video_file, self.is_skipped, self.options = video_file, is_skipped, options or InputOptions()
        self.frame_range = frame_range
        self.keeps_depth, self.keeps_transparency = keeps_depth, keeps_transparency
        self.dropped_frames = DroppedFrames()
        self.has_gaps = False
        self._last_pts: int | None = None
        self._gap_times: list[int] = []
        self._frame_ticks = max(1, round(1 / (video_file.frame_rate * video_file.time_base)))
        self._fields_per_tick: Fraction | None = None

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Gives every good frame. Damage is counted, not raised.

        Raises:
            SizeChangeError: A frame has another size.
            IndexMismatchError: A frame of the range is not where its index has it; those before it were.
            InputError: The file cannot be opened.
            LimitError: There is not enough memory.
        """
        converter = ColorConverter(self.video_file.color)
        to_rgb = converter.to_deepest_rgb if self.keeps_depth else converter.to_rgb
        orientation = self.video_file.orientation
        for index, frame, pts, duration in self._read_numbered_frames():
            transparency = converter.read_transparency(frame) if self.keeps_transparency else None
            rgb: NDArray[Any] = to_rgb(frame)
            if transparency is not None:
                rgb = fill_hidden_colors(rgb, transparency)
                transparency = orientation.apply(transparency)
            yield DecodedFrame(
                index, pts, duration, orientation.apply(rgb), transparency, frame.interlaced_frame, self._has_pulldown(frame)
            )

    def list_times(self) -> list[int]:
        """Decodes the whole video and returns the timestamp of every good frame; `dropped_frames` is complete then."""
        return [pts for _, _, pts, _ in self._read_numbered_frames()]

    def _read_numbered_frames(self) -> Iterator[tuple[int, VideoFrame, int, int]]:
        """Reads the good frames that are not skipped, with their numbers, timestamps and durations."""
        with open_container(self.video_file.path, self.options.hwaccel, self.options.frame_rate) as container:
            stream = container.streams[self.video_file.stream_index]
            assert isinstance(stream, VideoStream)
            stream.thread_type = "AUTO"
            if stream.codec_context.name in PULLDOWN_CODECS and stream.guessed_rate:
                self._fields_per_tick = 2 * self.video_file.time_base * Fraction(stream.guessed_rate)
            if self.frame_range is not None:
                yield from self._read_range(container, stream, self.frame_range)
                return
            count = 0
            for frame, pts, duration in self._cut_part(container, stream):
                if not self.is_skipped(count):
                    yield count, frame, pts, duration
                count += 1
        if self.dropped_frames.has_losses and self.video_file.part is None:
            self.dropped_frames.missing = max(0, self.video_file.frame_count - count)

    def _read_range(
        self, container: InputContainer, stream: VideoStream, frame_range: FrameRange
    ) -> Iterator[tuple[int, VideoFrame, int, int]]:
        """Reads the frames of a range, each compared with the index."""
        index, key_frame = frame_range.index, frame_range.find_key_frame()
        if key_frame is None:
            number, frames = 0, self._cut_part(container, stream)
        else:
            number = key_frame.rank - index.offset
            frames = self._read_from_key_frame(container, stream, frame_range, key_frame)
        for frame, pts, duration in frames:
            if pts != index.get_time(number):
                raise self._make_mismatch_error(number)
            if number >= frame_range.first:
                yield number, frame, pts, duration
            number += 1
            if number == frame_range.end:
                return
        raise self._make_mismatch_error(number)

    def _read_from_key_frame(
        self, container: InputContainer, stream: VideoStream, frame_range: FrameRange, key_frame: KeyFrame
    ) -> Iterator[tuple[VideoFrame, int, int]]:
        """Decodes from a key frame to the end of the range, and no packet more than that takes. Any damage is a mismatch."""
        index = frame_range.index
        first_pts, last_pts = index.times[key_frame.rank], index.get_time(frame_range.end - 1)
        missing = index.offset + frame_range.end - key_frame.rank
        decode = make_decode_function(stream)
        for packet in self._seek_key_frame(container, stream, key_frame.seek_ticks, first_pts):
            # What is shown before the key frame may look at frames that were not decoded.
            is_wanted = packet.pts is not None and packet.pts >= first_pts
            if packet.pts is not None and first_pts <= packet.pts <= last_pts and not packet.is_discard:
                missing -= 1
            try:
                frames = decode(packet)
                if packet.size and missing == 0:
                    frames += decode(_make_flush_packet(stream))
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise LimitError("There is not enough memory to decode the video.") from error
                if is_wanted:
                    raise self._make_mismatch_error(frame_range.first) from error
                continue
            for frame in frames:
                if frame.pts is not None and frame.pts < first_pts:
                    continue
                if frame.pts is None or frame.is_corrupt or (frame.width, frame.height) != self.video_file.coded_size:
                    raise self._make_mismatch_error(frame_range.first)
                yield frame, frame.pts, int(frame.duration or 0)
            if missing == 0:
                return

    def _seek_key_frame(
        self, container: InputContainer, stream: VideoStream, seek_ticks: int, pts: int
    ) -> Iterator[Packet[VideoStream]]:
        """Reads the packets of the stream from a key frame on.

        Raises:
            IndexMismatchError: The file cannot be read from there, or has a damaged packet.
        """
        is_found = False
        try:
            container.seek(seek_ticks, stream=stream)
            for packet in container.demux(stream):
                is_found |= packet.is_keyframe and packet.pts == pts
                if packet.is_corrupt if is_found else not packet.size:
                    break
                if is_found:
                    yield packet
                elif packet.is_keyframe and packet.pts is not None and packet.pts > pts:
                    break
            else:
                return
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise LimitError("There is not enough memory to decode the video.") from error
        raise IndexMismatchError(f"{escape_name(self.video_file.path)} could not be read from one of its key frames on.")

    def _make_mismatch_error(self, number: int) -> IndexMismatchError:
        return IndexMismatchError(
            f"Frame {number} of {escape_name(self.video_file.path)} is not where it was when the list of its frames was made; "
            "if the video changed meanwhile, begin again with --fresh."
        )

    def _cut_part(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[VideoFrame, int, int]]:
        """Reads the frames of the part, from the key frame before it where the format has an index."""
        part = self.video_file.part
        if part is None:
            yield from self._read_whole_frames(container, stream)
            return
        first, end = part.find_ticks(self.video_file.start_pts, self.video_file.time_base)
        if part.start and any(name in container.format.name for name in INDEXED_FORMATS):
            container.seek(first, stream=stream)
        for frame, pts, duration in self._read_whole_frames(container, stream):
            if pts >= end:
                return
            if pts >= first:
                yield frame, pts, duration

    def _read_whole_frames(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[VideoFrame, int, int]]:
        """Reads every good frame, deinterlaced if that is wanted, with its timestamp and duration."""
        deinterlacer = None
        if self.options.deinterlace:
            deinterlacer = Deinterlacer(self.video_file.time_base, only_marked=self.video_file.is_interlaced)
        for index, frame in enumerate(self._read_good_frames(container, stream)):
            if (frame.width, frame.height) != self.video_file.coded_size:
                raise SizeChangeError(self._format_size_change(frame, index))
            pts = self._fix_timestamp(frame)
            self.dropped_frames.interlaced += frame.interlaced_frame
            self.dropped_frames.pulldown += self._has_pulldown(frame)
            if deinterlacer is None:
                yield frame, pts, int(frame.duration or 0)
            else:
                yield from deinterlacer.push(frame, pts)
        if deinterlacer is not None:
            yield from deinterlacer.flush()

    def _has_pulldown(self, frame: VideoFrame) -> bool:
        rate = self._fields_per_tick
        return rate is not None and bool(frame.duration) and round(frame.duration * rate) == 3

    def _read_good_frames(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        decode = make_decode_function(stream)
        for packet in self.read_packets(container, stream):
            if packet.is_corrupt and packet.pos not in self.video_file.time_jumps.unproven_damage:
                self._count_damage()
                continue
            yield from self._decode_packet(packet, decode)

    def read_packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        """Reads the packets of the stream, timestamps corrected, and finds what the file has lost without decoding.

        All streams that have timestamps are read. Places that cannot be read are skipped.

        Raises:
            LimitError: There is not enough memory.
        """
        timed = [other for other in container.streams if other.type in TIMED_STREAM_TYPES]
        correct_timestamps = self.video_file.time_jumps.make_correction()
        gap_detector = _GapDetector() if "matroska" in container.format.name else None
        end = Fraction(0)
        for packet in demux_past_errors(container, timed):
            if packet is None:
                self.dropped_frames.has_losses = True
                continue
            correct_timestamps(packet)
            end = max(end, _packet_end_time(packet))
            if gap_detector is not None and gap_detector.has_gap_before(packet, stream.index):
                self._gap_times.append(packet.pts or 0)
                self.has_gaps = True
            if packet.stream.index == stream.index:
                yield packet
        if self.video_file.part is None and (
            _has_frames_beyond_end(container, stream, self.video_file) or _ends_early(container, end, self.video_file)
        ):
            self.dropped_frames.has_losses = True

    def _count_damage(self) -> None:
        self.dropped_frames.has_losses = True
        self.dropped_frames.damaged += 1

    def _decode_packet(self, packet: Packet[Any], decode: DecodeFunction) -> Iterator[VideoFrame]:
        try:
            frames = decode(packet)
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise LimitError("There is not enough memory to decode the video.") from error
            self._count_damage()
            return
        for frame in frames:
            assert isinstance(frame, VideoFrame)
            if frame.is_corrupt:
                self._count_damage()
            else:
                yield frame

    def _fix_timestamp(self, frame: VideoFrame) -> int:
        """Returns the frame's timestamp, moved after the last one where it is not later: no container holds two at one time."""
        pts = frame.pts
        if pts is None and self._last_pts is not None:
            pts = self._last_pts + self._frame_ticks
            self.dropped_frames.adjusted_timestamps += 1
        elif pts is None:
            pts = self.video_file.start_pts
        elif self._last_pts is not None and pts <= self._last_pts:
            pts = self._last_pts + 1
            self.dropped_frames.adjusted_timestamps += 1
        elif self._gap_times and self._last_pts is not None and pts - self._last_pts > 1.5 * self._frame_ticks:
            # Bytes that hold no packet may be anything; where frames are missing at the same place, something was lost.
            self.dropped_frames.has_losses |= any(self._last_pts < gap for gap in self._gap_times)
        self._gap_times = [gap for gap in self._gap_times if gap > pts]
        self._last_pts = pts
        return pts

    def _format_size_change(self, frame: VideoFrame, index: int) -> str:
        # Bare streams have no timestamps; those of the frames before were counted by the frame rate.
        pts = self._fix_timestamp(frame)
        seconds = float((pts - self.video_file.start_pts) * self.video_file.time_base)
        coded_width, coded_height = self.video_file.coded_size
        return (
            f"{escape_name(self.video_file.path)} changes from {coded_width}x{coded_height} to {frame.width}x{frame.height} "
            f"at frame {index} ({seconds:.3f} s), and a video has one size; cut it there and process the parts. "
            f"{index} frames were done, nothing was written."
        )


def _make_flush_packet(stream: VideoStream) -> Packet[VideoStream]:
    """Makes the packet after which a decoder gives all that it still has."""
    packet: Packet[Any] = Packet()
    packet.stream = stream
    return packet


def demux_past_errors(container: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet[Any] | None]:
    """Reads the packets of some streams, and goes on behind places that cannot be read.

    Yields:
        Packets, and None for each place that cannot be read.

    Raises:
        LimitError: There is not enough memory.
    """
    errors = 0
    while errors < MAX_CONSECUTIVE_READ_ERRORS:
        try:
            for packet in container.demux(*streams):
                errors = 0
                yield packet
            return
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise LimitError("There is not enough memory to decode the video.") from error
            errors += 1
        yield None


def _packet_end_time(packet: Packet[Any]) -> Fraction:
    time = packet.pts if packet.pts is not None else packet.dts
    if time is None or packet.time_base is None:
        return Fraction(0)
    return (time + (packet.duration or 0)) * packet.time_base


class _GapDetector:
    """Finds where bytes were skipped in a Matroska file: its demuxer looks for the next whole cluster without a word."""

    MAX_HEADER_BYTES = 1024
    """Most bytes that headers of blocks and clusters take."""

    def __init__(self) -> None:
        self._end_position: int | None = None
        self._pending = False

    def has_gap_before(self, packet: Packet[Any], index: int) -> bool:
        """Tells whether there was a gap since the last packet of the stream `index`. Called for every packet of the file."""
        if packet.pos is None or packet.pos < 0:
            return False
        self._pending |= self._end_position is not None and packet.pos - self._end_position > self.MAX_HEADER_BYTES
        self._end_position = packet.pos + packet.size
        if packet.stream_index != index:
            return False
        has_gap, self._pending = self._pending, False
        return has_gap


def _has_frames_beyond_end(container: InputContainer, stream: VideoStream, video_file: VideoFile) -> bool:
    """Tells whether the index of an MP4 has frames behind the end of the file."""
    if "mov" not in container.format.name:
        return False
    size = os.stat(video_file.path).st_size
    return any(entry.pos + entry.size > size for entry in stream.index_entries)


def _ends_early(container: InputContainer, end: Fraction, video_file: VideoFile) -> bool:
    """Tells whether all streams end well before the duration that the header says."""
    if not container.duration or not any(name in container.format.name for name in TRUSTED_DURATION_FORMATS):
        return False
    start = Fraction(container.start_time or 0, av.time_base)
    tolerance = max(Fraction(1, 4), 3 / video_file.frame_rate)
    return max(end, end - start) < Fraction(container.duration, av.time_base) - tolerance

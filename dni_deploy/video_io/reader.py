"""Reader: the frames of a film as RGB, one after the other, and how many of them were lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dni_deploy.errors import InputError, LimitError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.video_io.color import ToRgb
from dni_deploy.video_io.video_file import Source, open_source, video_stream

TRUSTED_ENDS = ("matroska", "mov", "flv", "avi")
"""Formats whose head says how long the film is; the others' duration is a guess from the end of the file itself."""

TIMED = ("video", "audio", "subtitle")

NEVER_ENDS = 1000
"""So many packets in a row that cannot be read, and the rest is given up."""


class Picture(NamedTuple):
    """One frame: its number from 0, timestamp and duration in ticks of the source, and its pixels."""

    number: int
    pts: int
    duration: int
    rgb: Frame


@dataclass
class Losses:
    """What a film lost.

    found     whether anything was.
    damaged   packets that could not be decoded, and frames that were damaged.
    missing   frames that should be there by what the film says of itself, and that are not.
    moved     timestamps that were absent or not later than the one before, and were set after it.
    """

    found: bool = False
    damaged: int = 0
    missing: int = 0
    moved: int = 0

    @property
    def frames(self) -> int:
        """How many frames, about."""
        return max(self.damaged, self.missing)

    def __bool__(self) -> bool:
        return self.found


class Reader:
    """Reads a film once, in one thread. `losses` is complete when the last picture was given."""

    def __init__(self, source: Source, *, skip: int = 0, hwaccel: str | None = None) -> None:
        """skip: so many good frames at the beginning are decoded and not given."""
        self.source, self.skip, self.hwaccel = source, skip, hwaccel
        self.losses = Losses()
        self._last: int | None = None
        self._torn: list[int] = []
        self._step = max(1, round(1 / (source.rate * source.time_base)))

    def __iter__(self) -> Iterator[Picture]:
        """Raises InputError: a frame has another size, the file cannot be opened. Damage is counted, not raised."""
        to_rgb = ToRgb(self.source.colour, self.source.rotation)
        index = 0
        with open_source(self.source.path, self.hwaccel) as container:
            stream = video_stream(container, self.source.path)
            stream.thread_type = "AUTO"
            for frame in self._good(container, stream):
                if (frame.width, frame.height) != self.source.coded:
                    raise InputError(self._size_changed(frame, index))
                pts = self._time(frame)
                if index >= self.skip:
                    yield Picture(index, pts, int(frame.duration or 0), to_rgb(frame))
                index += 1
        if self.losses.found:
            self.losses.missing = max(0, self.source.frames - index)

    def _good(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        end = Fraction(0)
        torn = _Torn() if "matroska" in container.format.name else None
        for packet in self._packets(container):
            end = max(end, _end(packet))
            if torn is not None and torn.before(packet, stream.index):
                self._torn.append(packet.pts or 0)
            if packet.stream.index != stream.index:
                continue
            if packet.is_corrupt:
                self._damage()
                continue
            yield from self._decoded(packet)
        if _beyond(container, stream, self.source) or _short(container, end, self.source):
            self.losses.found = True

    def _damage(self) -> None:
        self.losses.found = True
        self.losses.damaged += 1

    def _packets(self, container: InputContainer) -> Iterator[Packet[Any]]:
        """Every packet of every stream that has times; a place that cannot be read is passed over."""
        errors = 0
        timed = [stream for stream in container.streams if stream.type in TIMED]
        packets = container.demux(*timed)
        while errors < NEVER_ENDS:
            try:
                for packet in packets:
                    errors = 0
                    yield packet
                return
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise LimitError("There is not enough memory to decode the film.") from error
                errors += 1
                self.losses.found = True
                packets = container.demux(*timed)

    def _decoded(self, packet: Packet[Any]) -> Iterator[VideoFrame]:
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise LimitError("There is not enough memory to decode the film.") from error
            self._damage()
            return
        for frame in frames:
            assert isinstance(frame, VideoFrame)
            if frame.is_corrupt:
                self._damage()
            else:
                yield frame

    def _time(self, frame: VideoFrame) -> int:
        """The frame's timestamp, made later than the last one where it is not: no container holds two frames at one time."""
        pts = frame.pts
        if pts is None and self._last is not None:
            pts = self._last + self._step
            self.losses.moved += 1
        elif pts is None:
            pts = self.source.start
        elif self._last is not None and pts <= self._last:
            pts = self._last + 1
            self.losses.moved += 1
        elif self._torn and self._last is not None and pts - self._last > 1.5 * self._step:
            # Bytes that hold no packet may be anything; where frames are missing as well, it is a hole.
            self.losses.found |= any(self._last < torn for torn in self._torn)
        self._torn = [torn for torn in self._torn if torn > pts]
        self._last = pts
        return pts

    def _size_changed(self, frame: VideoFrame, index: int) -> str:
        seconds = float(((frame.pts or 0) - self.source.start) * self.source.time_base)
        return (
            f"{shown(self.source.path)} changes from {self.source.coded[0]}x{self.source.coded[1]} to {frame.width}x{frame.height} "
            f"at frame {index} ({seconds:.3f} s), and a film has one size; cut it there and process the parts. "
            f"{index} frames were done, nothing was written."
        )


def _end(packet: Packet[Any]) -> Fraction:
    time = packet.pts if packet.pts is not None else packet.dts
    if time is None or packet.time_base is None:
        return Fraction(0)
    return (time + (packet.duration or 0)) * packet.time_base


class _Torn:
    """Tells where bytes were passed over between two packets of a Matroska file, which looks for the next whole cluster by itself."""

    SLACK = 1024
    """Bytes that headers of blocks and clusters may take."""

    def __init__(self) -> None:
        self._end: int | None = None
        self._pending = False

    def before(self, packet: Packet[Any], index: int) -> bool:
        """Whether there was such a place since the last packet of the stream `index`; asked for every packet of the file."""
        if packet.pos is None or packet.pos < 0:
            return False
        self._pending |= self._end is not None and packet.pos - self._end > self.SLACK
        self._end = packet.pos + packet.size
        if packet.stream_index != index:
            return False
        told, self._pending = self._pending, False
        return told


def _beyond(container: InputContainer, stream: VideoStream, source: Source) -> bool:
    """Whether frames lie, by the index of an MP4, behind the end of the file."""
    if "mov" not in container.format.name:
        return False
    size = os.stat(source.path).st_size
    return any(entry.pos + entry.size > size for entry in stream.index_entries)


def _short(container: InputContainer, end: Fraction, source: Source) -> bool:
    """Whether all streams end well before the film does by its head."""
    if not container.duration or not any(name in container.format.name for name in TRUSTED_ENDS):
        return False
    start = Fraction(container.start_time or 0, av.time_base)
    tolerance = max(Fraction(1, 4), 3 / source.rate)
    return max(end, end - start) < Fraction(container.duration, av.time_base) - tolerance

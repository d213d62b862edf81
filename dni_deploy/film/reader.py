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
from dni_deploy.film.colour import ToRgb
from dni_deploy.film.source import Source, open_source, video_stream
from dni_deploy.frames import Frame

TRUSTED_ENDS = ("matroska", "mov", "flv", "avi")
"""Formats whose head says how long the film is; the others' duration is a guess from the end of the file itself."""

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
    """What a film lost: packets and frames that were damaged, and those that its head tells of and that are not there.

    moved: timestamps that were absent or not later than the one before, and were set one tick after it.
    """

    damaged: int = 0
    missing: int = 0
    moved: int = 0
    ended_early: bool = False

    @property
    def frames(self) -> int:
        return self.damaged + self.missing

    def __bool__(self) -> bool:
        return self.frames > 0 or self.ended_early


class Reader:
    """Reads a film once, in one thread. `losses` is complete when the last picture was given."""

    def __init__(self, source: Source, *, skip: int = 0, hwaccel: str | None = None) -> None:
        """skip: so many good frames at the beginning are decoded and not given."""
        self.source, self.skip, self.hwaccel = source, skip, hwaccel
        self.losses = Losses()
        self._last: int | None = None
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

    def _good(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        seen, end = 0, Fraction(0)
        beyond = _beyond(container, stream, self.source)
        for packet in self._packets(container):
            end = max(end, _end(packet))
            if packet.stream_index != stream.index:
                continue
            if packet.size:
                seen += 1
            if packet.is_corrupt:
                self.losses.damaged += 1
                continue
            yield from self._decoded(packet, stream)
        if beyond:
            self.losses.missing = max(0, beyond - self.losses.damaged)
            self.losses.ended_early = True
        elif _short(container, end, self.source):
            self.losses.ended_early = True
            assert container.duration is not None
            left = Fraction(container.duration, av.time_base) - end
            self.losses.missing = max(0, stream.frames - seen if stream.frames else round(left * self.source.rate))

    def _packets(self, container: InputContainer) -> Iterator[Packet[Any]]:
        """Every packet of every stream; a place that cannot be read is passed over."""
        errors = 0
        packets = container.demux()
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
                self.losses.ended_early = True
                packets = container.demux()

    def _decoded(self, packet: Packet[Any], stream: VideoStream) -> Iterator[VideoFrame]:
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise LimitError("There is not enough memory to decode the film.") from error
            self.losses.damaged += 1
            return
        for frame in frames:
            assert isinstance(frame, VideoFrame)
            if frame.is_corrupt:
                self.losses.damaged += 1
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


def _beyond(container: InputContainer, stream: VideoStream, source: Source) -> int:
    """How many frames lie, by the index of an MP4, behind the end of the file."""
    if "mov" not in container.format.name:
        return 0
    size = os.stat(source.path).st_size
    return sum(entry.pos + entry.size > size for entry in stream.index_entries)


def _short(container: InputContainer, end: Fraction, source: Source) -> bool:
    """Whether all streams end well before the film does by its head."""
    if not container.duration or not any(name in container.format.name for name in TRUSTED_ENDS):
        return False
    start = Fraction(container.start_time or 0, av.time_base)
    tolerance = max(Fraction(1, 4), 3 / source.rate)
    return max(end, end - start) < Fraction(container.duration, av.time_base) - tolerance

"""Timestamps of a whole file: where they jump, and when its streams begin."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

AVFMT_TS_DISCONT = 0x200
"""FFmpeg's flag of formats whose timestamps may jump."""

MARK_DISTANCE_PACKETS = 2
"""FFmpeg marks the packet that its parser holds when the counters differ: the last of a stream, or the one before."""

MAX_GAP_S = 10
MAX_STEP_BACK_S = Fraction(1, 10)
"""A larger step of a stream's decoding times, forward or back, is a jump of the file's clock.

Source: FFmpeg's -dts_delta_threshold, and ts_discontinuity_detect in fftools/ffmpeg_demux.c.
"""


@dataclass(frozen=True)
class TimeJumps:
    """The places of a file from which on another clock counts, as in transport streams that were joined.

    Attributes:
        positions: Where the jumps are, in bytes, ascending.
        offsets: What is added to all timestamps from there on, in seconds, so that they continue.
        unproven_damage: Where the packets before a jump begin. They may be marked as damaged only because the counters of
            packets go on differently behind it.
    """

    positions: tuple[int, ...] = ()
    offsets: tuple[Fraction, ...] = ()
    unproven_damage: frozenset[int] = frozenset()

    def make_correction(self) -> Callable[[Packet[Any]], None]:
        """Returns a function that corrects the timestamps of packets, for one pass over the file."""
        last_offsets: dict[int, Fraction] = {}

        def correct(packet: Packet[Any]) -> None:
            if packet.pos is None or packet.pos < 0:  # a packet that shares its place in the file with the one before
                offset = last_offsets.get(packet.stream_index, Fraction(0))
            else:
                offset = last_offsets[packet.stream_index] = self.find_offset(packet.pos)
            if offset and packet.time_base:
                shift_packet(packet, round(offset / packet.time_base))

        return correct

    def find_offset(self, position: int) -> Fraction:
        """Returns what is added to the timestamps at a place of the file."""
        index = bisect_right(self.positions, position)
        return self.offsets[index - 1] if index else Fraction(0)


def shift_packet(packet: Packet[Any], ticks: int) -> None:
    """Adds to both timestamps of a packet, where it has them."""
    if packet.pts is not None:
        packet.pts += ticks
    if packet.dts is not None:
        packet.dts += ticks


def find_time_jumps(container: InputContainer) -> TimeJumps:
    """Finds where the timestamps of a file jump.

    Args:
        container: An open file. It is read to its end where its format allows jumps: MPEG streams and Ogg.
    """
    finder = _JumpFinder()
    if container.format.flags & AVFMT_TS_DISCONT:
        streams = [stream for stream in container.streams if stream.type in ("video", "audio")]
        with suppress(av.error.FFmpegError):  # the reader finds what cannot be read, and reports it
            for packet in container.demux(*streams):
                finder.add_packet(packet)
    return finder.jumps


@dataclass
class _StreamClock:
    """The decoding times of a stream so far. Whole numbers of ticks, since this is computed for every packet of a file.

    Attributes:
        time_base: Seconds per tick.
        frame_ticks: Duration of a packet that does not say its own, in ticks.
        max_gap: MAX_GAP_S in ticks.
        max_step_back: MAX_STEP_BACK_S in ticks.
        position: Where the last packet with a known place was, in bytes.
        recent_positions: Those of the last packets.
        last: Time of the last packet, in ticks; None before the first.
        expected: Time of the next one, in ticks.
    """

    time_base: Fraction
    frame_ticks: int
    max_gap: int
    max_step_back: int
    position: int = 0
    recent_positions: deque[int] = field(default_factory=lambda: deque(maxlen=MARK_DISTANCE_PACKETS))
    last: int | None = None
    expected: int = 0

    @classmethod
    def of_stream(cls, packet: Packet[Any]) -> _StreamClock:
        """Makes the clock of a packet's stream."""
        time_base = packet.time_base
        rate = packet.stream.average_rate if isinstance(packet.stream, VideoStream) else None
        frame_ticks = round(1 / rate / time_base) if rate else 0
        return cls(time_base, frame_ticks, int(MAX_GAP_S / time_base), int(MAX_STEP_BACK_S / time_base))


class _JumpFinder:
    """Follows the decoding times of all streams."""

    def __init__(self) -> None:
        self.jumps = TimeJumps()
        self._clocks: dict[int, _StreamClock] = {}
        self._last_clock: _StreamClock | None = None

    def add_packet(self, packet: Packet[Any]) -> None:
        if packet.dts is None:
            return
        clock = self._clocks.get(packet.stream_index)
        if clock is None:
            clock = self._clocks[packet.stream_index] = _StreamClock.of_stream(packet)
        if packet.pos is not None and packet.pos >= 0:
            clock.position = packet.pos
        offset = self.jumps.find_offset(clock.position)
        time = packet.dts + (round(offset / clock.time_base) if offset else 0)
        expected = self._find_expected_time(clock, time)
        if expected is not None:
            self._add_jump(clock.position, offset + (expected - time) * clock.time_base)
            time = expected
        clock.last, clock.expected = time, time + (packet.duration or clock.frame_ticks)
        clock.recent_positions.append(clock.position)
        self._last_clock = clock

    def _find_expected_time(self, clock: _StreamClock, time: int) -> int | None:
        """Returns the time at which a packet should be, in ticks, where its own is behind a jump."""
        if clock.last is not None:
            is_jump = abs(time - clock.expected) > clock.max_gap or time + clock.max_step_back < clock.last
            return clock.expected if is_jump else None
        if self._last_clock is not None and self._last_clock.last is not None:
            other = round(self._last_clock.last * self._last_clock.time_base / clock.time_base)
            return other if abs(time - other) > clock.max_gap else None
        return None

    def _add_jump(self, position: int, offset: Fraction) -> None:
        jumps = self.jumps
        self.jumps = TimeJumps(
            (*jumps.positions, max(position, jumps.positions[-1] + 1 if jumps.positions else 0)),
            (*jumps.offsets, offset),
            jumps.unproven_damage.union(*(clock.recent_positions for clock in self._clocks.values())),
        )

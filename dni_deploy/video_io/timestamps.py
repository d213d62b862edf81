"""Timestamps of a whole file: where they jump, and when its streams begin."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
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


def _find_duration(packet: Packet[Any]) -> Fraction:
    """Returns the duration of a packet in seconds, where need be by the frame rate; 0 where neither is known."""
    if packet.duration:
        return packet.duration * packet.time_base
    rate = packet.stream.average_rate if isinstance(packet.stream, VideoStream) else None
    return 1 / rate if rate else Fraction(0)


class _JumpFinder:
    """Follows the decoding times of all streams."""

    def __init__(self) -> None:
        self.jumps = TimeJumps()
        self._positions: dict[int, int] = {}
        self._recent_positions: dict[int, deque[int]] = {}
        self._times: dict[int, tuple[Fraction, Fraction]] = {}
        self._last_time: Fraction | None = None

    def add_packet(self, packet: Packet[Any]) -> None:
        if packet.dts is None or not packet.time_base:
            return
        index = packet.stream_index
        if packet.pos is not None and packet.pos >= 0:
            self._positions[index] = packet.pos
        position = self._positions.get(index, 0)
        is_jump = self._correct_time(packet, position)
        recent = self._recent_positions.setdefault(index, deque(maxlen=MARK_DISTANCE_PACKETS))
        if is_jump:
            unproven = self.jumps.unproven_damage.union(*self._recent_positions.values())
            self.jumps = replace(self.jumps, unproven_damage=unproven)
        recent.append(position)

    def _correct_time(self, packet: Packet[Any], position: int) -> bool:
        """Notes a jump where the time of the packet is not that which was expected; returns whether it is not."""
        assert packet.dts is not None
        offset = self.jumps.find_offset(position)
        time = packet.dts * packet.time_base + offset
        expected = self._find_expected_time(packet.stream_index, time)
        if expected is not None:
            positions, offsets = self.jumps.positions, self.jumps.offsets
            position = max(position, positions[-1] + 1 if positions else 0)
            self.jumps = replace(self.jumps, positions=(*positions, position), offsets=(*offsets, offset + expected - time))
            time = expected
        self._times[packet.stream_index] = time, time + _find_duration(packet)
        self._last_time = time
        return expected is not None

    def _find_expected_time(self, index: int, time: Fraction) -> Fraction | None:
        """Returns the time at which the packet should be, where its own is behind a jump."""
        if index in self._times:
            last, expected = self._times[index]
            return expected if abs(time - expected) > MAX_GAP_S or time + MAX_STEP_BACK_S < last else None
        if self._last_time is not None and abs(time - self._last_time) > MAX_GAP_S:
            return self._last_time
        return None

"""Segments: pieces of an encoded film on disk, each whole or not there.

A file is the packets one after the other, then a JSON foot, its length (4 bytes) and the SHA-256 of all that is before.
Matroska would do, were its timestamps not rounded to milliseconds; these keep the film's own ticks.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from av.packet import Packet

from dni_deploy.utils.atomic_write import sync_folder

PACKET_HEADER = struct.Struct("<qBI")
"""Of each packet: timestamp in ticks, whether it is a key frame, number of bytes."""

FOOTER_LENGTH = struct.Struct("<I")
READ_CHUNK_BYTES = 1 << 20


class EncodedPacket(NamedTuple):
    """One packet: timestamp in ticks, key frame or not, bytes."""

    pts: int
    is_keyframe: bool
    data: bytes


class FrameAlphaRecord(NamedTuple):
    """What one frame was made with: seconds since the first frame, generation, shares in family order."""

    seconds: float
    generation: int
    coefficients: tuple[float, ...]


class SegmentFooter(NamedTuple):
    """What is told of a segment's frames, in the order they are shown: timestamp and duration in ticks, and the alpha."""

    frame_times: tuple[tuple[int, int], ...]
    alphas: tuple[FrameAlphaRecord, ...]


@dataclass(frozen=True)
class Segment:
    """A whole segment on disk; of a long film there are many, so only this much of each is in memory.

    first   number of its first frame in the film; frames: how many it has.
    delay   by how many packets decoding is ahead of showing.
    last    what the last frame was made with.
    """

    path: Path
    first_frame: int
    frames: int
    delay: int
    last_alpha: FrameAlphaRecord

    def read_footer(self) -> SegmentFooter:
        """Read. Raises OSError."""
        with open(self.path, "rb") as file:
            foot = _read_footer_json(file, os.stat(self.path).st_size)
        times = tuple((int(pts), int(duration)) for pts, duration in foot["times"])
        return SegmentFooter(times, tuple(_parse_alpha_record(row) for row in foot["alphas"]))

    def read_packets(self) -> Iterator[EncodedPacket]:
        """Every packet in the order of decoding. The file was checked when the segment was opened."""
        with open(self.path, "rb") as file:
            for _ in range(self.frames):
                pts, key, size = PACKET_HEADER.unpack(file.read(PACKET_HEADER.size))
                yield EncodedPacket(pts, bool(key), file.read(size))


class SegmentWriter:
    """Fills one segment under a temporary name; `close` gives it its own."""

    def __init__(self, folder: Path, number: int, first_frame: int) -> None:
        self._final_path = segment_path(folder, number)
        self._temporary_path = self._final_path.with_suffix(".part")
        self._first_frame = first_frame
        self._file: BinaryIO = open(self._temporary_path, "wb")  # noqa: SIM115
        self._digest = sha256()
        self._packet_pts: list[int] = []
        self._frame_times: list[tuple[int, int]] = []
        self._alphas: list[FrameAlphaRecord] = []

    @property
    def frames(self) -> int:
        return len(self._frame_times)

    def add_frame(self, pts: int, duration: int, alpha: FrameAlphaRecord) -> None:
        """A frame was given to the encoder."""
        self._frame_times.append((pts, duration))
        self._alphas.append(alpha)

    def add_packet(self, packet: Packet[Any]) -> None:
        """Take a packet of the encoder."""
        data = bytes(packet)
        assert packet.pts is not None
        self._write(PACKET_HEADER.pack(packet.pts, packet.is_keyframe, len(data)))
        self._write(data)
        self._packet_pts.append(packet.pts)

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)

    def close(self) -> Segment:
        """Write the foot, flush to the disk, give the name. Raises OSError (naming the file), FrameCountError."""
        ranks = {pts: rank for rank, (pts, _) in enumerate(self._frame_times)}
        if sorted(self._packet_pts) != [pts for pts, _ in self._frame_times]:
            raise FrameCountError(len(self._frame_times), len(self._packet_pts))
        delay = max(place - ranks[pts] for place, pts in enumerate(self._packet_pts))
        fields = {"first": self._first_frame, "delay": delay, "times": self._frame_times, "alphas": self._alphas}
        foot = json.dumps(fields, separators=(",", ":")).encode()
        self._write(foot)
        self._write(FOOTER_LENGTH.pack(len(foot)))
        self._file.write(self._digest.digest())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary_path, self._final_path)
        sync_folder(self._final_path.parent)
        return Segment(self._final_path, self._first_frame, len(self._frame_times), delay, self._alphas[-1])

    def discard(self) -> None:
        """Leave nothing."""
        with suppress(OSError):  # a full disk is full for what was not flushed yet, too
            self._file.close()
        with suppress(OSError):
            self._temporary_path.unlink(missing_ok=True)


class FrameCountError(Exception):
    """The encoder gave another number of packets than it took frames, or other timestamps."""


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.segment"


def open_segment(path: Path) -> Segment | None:
    """The segment at that path, read whole and checked; None where there is none, or a damaged one."""
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            digest, left = sha256(), size - 32
            while left > 0:
                piece = file.read(min(READ_CHUNK_BYTES, left))
                if not piece:
                    return None
                digest.update(piece)
                left -= len(piece)
            if left < 0 or file.read() != digest.digest():
                return None
            foot = _read_footer_json(file, size)
        return Segment(path, foot["first"], len(foot["times"]), foot["delay"], _parse_alpha_record(foot["alphas"][-1]))
    except (OSError, struct.error, ValueError, KeyError, IndexError):
        return None


def _read_footer_json(file: BinaryIO, size: int) -> dict[str, Any]:
    file.seek(size - 32 - FOOTER_LENGTH.size)
    (length,) = FOOTER_LENGTH.unpack(file.read(FOOTER_LENGTH.size))
    file.seek(size - 32 - FOOTER_LENGTH.size - length)
    found: dict[str, Any] = json.loads(file.read(length))
    return found


def _parse_alpha_record(row: list[Any]) -> FrameAlphaRecord:
    return FrameAlphaRecord(row[0], row[1], tuple(row[2]))

"""Segments: pieces of an encoded video on disk, each whole or absent.

A file is the packets one after the other, then a JSON footer, the footer's length (4 bytes) and the SHA-256 of all before it.
Matroska would do, were its timestamps not rounded to milliseconds; these keep the ticks of the source.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from av.packet import Packet

from dni_deploy.errors import EngineError, escape_name
from dni_deploy.utils.atomic_write import sync_folder
from dni_deploy.utils.text_file import open_file

PACKET_HEADER = struct.Struct("<qBI")
"""Of each packet: timestamp in ticks, flags, number of bytes."""

KEY_FRAME, HAS_TRANSPARENCY = 1, 2
"""Flags of a packet. A packet of transparency, with PACKET_HEADER of its own, follows one that has it."""

TRANSPARENCY_SIDE_DATA: Literal["matroska_block_additional"] = "matroska_block_additional"
TRANSPARENCY_ID_BYTES = 8
"""Where the encoders of VP8 and VP9 put the packet of the transparency, and how many bytes come before it there."""

FOOTER_LENGTH = struct.Struct("<I")
DIGEST_BYTES = 32
READ_CHUNK_BYTES = 1 << 20


class EncodedPacket(NamedTuple):
    """One packet of an encoder.

    Attributes:
        pts: Timestamp in ticks.
        is_keyframe: Whether it can be decoded without others.
        data: The bytes.
        transparency: The packet of the transparency, where the codec has one apart.
    """

    pts: int
    is_keyframe: bool
    data: bytes
    transparency: bytes | None = None


class FrameAlphaRecord(NamedTuple):
    """What one frame was rendered with.

    Attributes:
        seconds: Time since the first frame.
        generation: Number of changes of the weights so far.
        coefficients: One per member, in family order.
    """

    seconds: float
    generation: int
    coefficients: tuple[float, ...]


class SegmentFooter(NamedTuple):
    """What is stored of a segment's frames, in the order in which they are shown.

    Attributes:
        frame_times: Timestamp and duration of each, in ticks.
        alphas: What each was rendered with.
    """

    frame_times: tuple[tuple[int, int], ...]
    alphas: tuple[FrameAlphaRecord, ...]


@dataclass(frozen=True)
class Segment:
    """A whole segment on disk. Of a long video there are many, so only this much of each is in memory.

    Attributes:
        path: The file.
        first_frame: Number of its first frame in the video.
        frames: Number of frames.
        delay: By how many packets decoding is ahead of showing.
        interlaced: Number of frames of the source that are marked as interlaced.
        pulldown: Number of them that are marked to be shown for three fields.
    """

    path: Path
    first_frame: int
    frames: int
    delay: int
    interlaced: int = 0
    pulldown: int = 0

    def read_footer(self) -> SegmentFooter:
        """Reads times and alphas of the frames.

        Raises:
            InputError: The file cannot be read.
        """
        with open_file(self.path, "segment") as file:
            footer = _read_footer_json(file, os.stat(self.path).st_size)
        times = tuple((int(pts), int(duration)) for pts, duration in footer["times"])
        return SegmentFooter(times, tuple(_parse_alpha_record(row) for row in footer["alphas"]))

    def read_packets(self) -> Iterator[EncodedPacket]:
        """Reads every packet in decoding order, and checks the digest of the file once more.

        Raises:
            ValueError: The file is not what it was when the segment was opened; known after the last packet.
            InputError: It cannot be read.
        """
        with open_file(self.path, "segment") as file:
            digest = sha256()

            def read(size: int) -> bytes:
                data = file.read(size)
                digest.update(data)
                return data

            for _ in range(self.frames):
                pts, flags, size = PACKET_HEADER.unpack(read(PACKET_HEADER.size))
                data, transparency = read(size), None
                if flags & HAS_TRANSPARENCY:
                    _, _, size = PACKET_HEADER.unpack(read(PACKET_HEADER.size))
                    transparency = read(size)
                yield EncodedPacket(pts, bool(flags & KEY_FRAME), data, transparency)
            rest = file.read()
            digest.update(rest[:-DIGEST_BYTES])
            if rest[-DIGEST_BYTES:] != digest.digest():
                raise ValueError(f"{escape_name(self.path.name)} is not what was written")

    def has_times(self, times: Sequence[int]) -> bool:
        """Tells whether its frames have these timestamps, in ticks."""
        try:
            return [pts for pts, _ in self.read_footer().frame_times] == list(times)
        except (OSError, struct.error, ValueError, KeyError):  # InputError is a ValueError
            return False


class SegmentWriter:
    """Fills one segment under a temporary name; `close` gives it its final one.

    Thread safety: For one thread.
    """

    def __init__(self, folder: Path, number: int, first_frame: int) -> None:
        """Creates the file.

        Args:
            folder: The job folder.
            number: Number of the segment in the video, from 0.
            first_frame: Number of its first frame in the video.
        """
        self._final_path = segment_path(folder, number)
        # A name of its own for each attempt: no two ever write into one file, where the system has no locks.
        self._temporary_path = self._final_path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.part")
        self._first_frame = first_frame
        self._file: BinaryIO = open(self._temporary_path, "xb")  # noqa: SIM115
        self._digest = sha256()
        self._packet_pts: list[int] = []
        self._frame_times: list[tuple[int, int]] = []
        self._alphas: list[FrameAlphaRecord] = []
        self._marks = {"interlaced": 0, "pulldown": 0}

    @property
    def frames(self) -> int:
        """Number of frames that were added."""
        return len(self._frame_times)

    def add_frame(
        self, pts: int, duration: int, alpha: FrameAlphaRecord, *, is_interlaced: bool = False, has_pulldown: bool = False
    ) -> None:
        """Records a frame that was given to the encoder; times are in ticks, and the marks are those of the source."""
        self._frame_times.append((pts, duration))
        self._alphas.append(alpha)
        self._marks["interlaced"] += is_interlaced
        self._marks["pulldown"] += has_pulldown

    def add_packet(self, packet: Packet[Any]) -> None:
        """Writes a packet of the encoder."""
        data = bytes(packet)
        assert packet.pts is not None
        transparency = None
        if packet.has_sidedata(TRANSPARENCY_SIDE_DATA):
            transparency = bytes(packet.get_sidedata(TRANSPARENCY_SIDE_DATA))[TRANSPARENCY_ID_BYTES:]
        flags = KEY_FRAME * packet.is_keyframe | HAS_TRANSPARENCY * (transparency is not None)
        self._write(PACKET_HEADER.pack(packet.pts, flags, len(data)))
        self._write(data)
        if transparency is not None:
            self._write(PACKET_HEADER.pack(packet.pts, 0, len(transparency)))
            self._write(transparency)
        self._packet_pts.append(packet.pts)

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)

    def close(self) -> Segment:
        """Writes the footer, flushes to the disk and gives the file its name.

        Raises:
            OSError: The file cannot be written.
            EngineError: The encoder gave another number of packets than it took frames, or other timestamps.
        """
        if sorted(self._packet_pts) != [pts for pts, _ in self._frame_times]:
            raise EngineError(
                f"The encoder made {len(self._packet_pts)} packets of {self.frames} frames; choose another --codec."
            )
        ranks = {pts: rank for rank, (pts, _) in enumerate(self._frame_times)}
        delay = max(position - ranks[pts] for position, pts in enumerate(self._packet_pts))
        marks = {name: count for name, count in self._marks.items() if count}
        fields = {"first": self._first_frame, "delay": delay, "times": self._frame_times, "alphas": self._alphas, **marks}
        footer = json.dumps(fields, separators=(",", ":")).encode()
        self._write(footer)
        self._write(FOOTER_LENGTH.pack(len(footer)))
        self._file.write(self._digest.digest())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary_path, self._final_path)
        sync_folder(self._final_path.parent)
        return Segment(self._final_path, self._first_frame, self.frames, delay, **self._marks)

    def discard(self) -> None:
        """Removes the file."""
        with suppress(OSError):  # a full disk is full for what was not flushed yet, too
            self._file.close()
        with suppress(OSError):
            self._temporary_path.unlink(missing_ok=True)


def segment_path(folder: Path, number: int) -> Path:
    """Returns the path of a segment in a job folder."""
    return folder / f"{number:06d}.segment"


def open_segment(path: Path) -> Segment | None:
    """Opens a segment, reading and checking all of it. Links are not followed.

    Returns:
        The segment, or None where there is none or it is damaged.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            digest, remaining = sha256(), size - DIGEST_BYTES
            while remaining > 0 and (chunk := file.read(min(READ_CHUNK_BYTES, remaining))):
                digest.update(chunk)
                remaining -= len(chunk)
            if remaining or file.read() != digest.digest():
                return None
            footer = _read_footer_json(file, size)
        marks = {name: footer.get(name, 0) for name in ("interlaced", "pulldown")}
        return Segment(path, footer["first"], len(footer["times"]), footer["delay"], **marks)
    except (OSError, struct.error, ValueError, KeyError, IndexError):
        return None


def _read_footer_json(file: BinaryIO, size: int) -> dict[str, Any]:
    file.seek(size - DIGEST_BYTES - FOOTER_LENGTH.size)
    (length,) = FOOTER_LENGTH.unpack(file.read(FOOTER_LENGTH.size))
    file.seek(size - DIGEST_BYTES - FOOTER_LENGTH.size - length)
    footer: dict[str, Any] = json.loads(file.read(length))
    return footer


def _parse_alpha_record(row: list[Any]) -> FrameAlphaRecord:
    return FrameAlphaRecord(row[0], row[1], tuple(row[2]))

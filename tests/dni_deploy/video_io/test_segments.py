"""A segment is complete or absent: its bytes are fixed, and any damage is detected when it is opened."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from av.packet import Packet

from dni_deploy.errors import EngineError, InputError
from dni_deploy.video_io.segments import FrameAlphaRecord, Segment, SegmentFooter, SegmentWriter, open_segment, segment_path

DECODING_ORDER = (0, 40, 20, 60)
"""Timestamps as an encoder with one B-frame gives them."""


def make_packet(pts: int, data: bytes, is_keyframe: bool = False) -> Packet[Any]:
    packet = Packet(data)
    packet.pts, packet.is_keyframe = pts, is_keyframe
    return packet


def write_segment(
    folder: Path, packets: Sequence[int] = DECODING_ORDER, number: int = 2, first_frame: int = 8
) -> SegmentWriter:
    writer = SegmentWriter(folder, number, first_frame)
    for rank, pts in enumerate(sorted(DECODING_ORDER)):
        writer.add_frame(pts, 20, FrameAlphaRecord(pts / 1000, rank + 1, (0.25, 0.75)))
    for pts in packets:
        writer.add_packet(make_packet(pts, b"data of %d" % pts, pts == 0))
    return writer


def test_segment_round_trip(tmp_path: Path) -> None:
    segment = write_segment(tmp_path).close()
    assert segment == Segment(tmp_path / "000002.segment", 8, 4, 1)
    assert open_segment(segment.path) == segment
    alphas = tuple(FrameAlphaRecord(pts / 1000, rank + 1, (0.25, 0.75)) for rank, pts in enumerate((0, 20, 40, 60)))
    assert segment.read_footer() == SegmentFooter(((0, 20), (20, 20), (40, 20), (60, 20)), alphas)
    assert [packet[:3] for packet in segment.read_packets()] == [(pts, pts == 0, b"data of %d" % pts) for pts in DECODING_ORDER]
    assert [entry.name for entry in tmp_path.iterdir()] == ["000002.segment"]


def test_the_bytes_of_a_segment_are_fixed(tmp_path: Path) -> None:
    """A job that was stopped by an older version is resumed."""
    data = write_segment(tmp_path).close().path.read_bytes()
    assert sha256(data).hexdigest() == "a185e7db7f1a1457b75636011dc9d61d71c026ba3171c1e5b3db9591b2ffffb3"


def test_any_changed_byte_and_any_truncation_is_detected(tmp_path: Path) -> None:
    """Tests every fifth byte, which covers each field."""
    path = write_segment(tmp_path).close().path
    data = path.read_bytes()
    for position in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert open_segment(path) is None
        path.write_bytes(data[:position])
        assert open_segment(path) is None
    path.write_bytes(data)
    assert open_segment(path) is not None
    assert open_segment(segment_path(tmp_path, 3)) is None


@pytest.mark.parametrize("packets", [(0, 40, 20), (0, 40, 20, 60, 80), (0, 40, 20, 61)])
def test_an_encoder_that_loses_frames_is_an_error(tmp_path: Path, packets: tuple[int, ...]) -> None:
    writer = write_segment(tmp_path, packets)
    with pytest.raises(EngineError, match=f"made {len(packets)} packets of 4 frames; choose another --codec"):
        writer.close()
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_a_segment_that_cannot_be_read_any_more_is_named(tmp_path: Path) -> None:
    segment = write_segment(tmp_path).close()
    segment.path.unlink()
    with pytest.raises(InputError, match=r"The segment .* does not exist"):
        segment.read_footer()
    with pytest.raises(InputError, match=r"The segment .* does not exist"):
        list(segment.read_packets())


def test_what_is_joined_is_what_was_written(tmp_path: Path) -> None:
    """A segment that is damaged after it was opened does not get into the video."""
    segment = write_segment(tmp_path).close()
    data = bytearray(segment.path.read_bytes())
    assert len(list(segment.read_packets())) == 4
    for position in (20, len(data) - 40, len(data) - 1):  # in a packet, in the footer, in the digest
        damaged = bytearray(data)
        damaged[position] ^= 1
        segment.path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"000002\.segment is not what was written"):
            list(segment.read_packets())


def test_marks_of_the_source_are_counted(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, 0, 0)
    for pts in range(3):
        writer.add_frame(pts, 1, FrameAlphaRecord(0.0, 1, (1.0,)), is_interlaced=pts > 0, has_pulldown=pts == 2)
        writer.add_packet(make_packet(pts, b"packet"))
    segment = writer.close()
    assert (segment.interlaced, segment.pulldown) == (2, 1)
    assert open_segment(segment.path) == segment
    assert segment.has_times([0, 1, 2])
    assert not segment.has_times([0, 1, 3])


def attempt(folder: Path, rng: random.Random, stop: int) -> Iterator[None]:
    """One attempt at a segment, step by step; after `stop` steps it dies, and its file stays."""
    writer = SegmentWriter(folder, 0, 0)
    yield
    for step, pts in enumerate((0, 20, 40)):
        if step == stop:
            return
        writer.add_frame(pts, 20, FrameAlphaRecord(0.0, 1, (1.0,)))
        writer.add_packet(make_packet(pts, b"data of %d" % pts * 9))
        if rng.random() < 0.5:
            writer._file.flush()  # as the system may at any time
        yield
    writer.close()


def test_no_interleaving_of_two_attempts_damages_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 of them, each of two attempts of which one may die: whatever is at the final name is always whole."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    path, whole = segment_path(tmp_path, 0), None
    for seed in range(1000):
        rng = random.Random(seed)
        attempts = [attempt(tmp_path, rng, stop) for stop in (9, rng.choice((0, 1, 2, 9, 9)))]
        while attempts:
            chosen = rng.choice(attempts)
            if next(chosen, chosen) is chosen:
                attempts.remove(chosen)
            if path.exists():
                whole = whole or path.read_bytes()
                assert path.read_bytes() == whole
        assert whole is not None
        assert open_segment(path) is not None
        for entry in tmp_path.iterdir():
            entry.unlink()

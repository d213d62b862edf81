"""Jumps of timestamps: found by FFmpeg's rule, and closed for all streams from the same place of the file on."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from dni_deploy.video_io.timestamps import TimeJumps, _JumpFinder, find_time_jumps
from tests.support.video_clips import Clip

TICK = Fraction(1, 10)
"""Seconds; a packet of these tests lasts one."""


def make_packet(dts: int | None, pos: int | None, stream: int = 0) -> Any:
    return SimpleNamespace(
        dts=dts, pts=dts, pos=pos, stream_index=stream, time_base=TICK, duration=1, stream=None, is_corrupt=False
    )


def find_jumps(packets: Sequence[tuple[int | None, int | None, int]]) -> TimeJumps:
    finder = _JumpFinder()
    for dts, pos, stream in packets:
        finder.add_packet(make_packet(dts, pos, stream))
    return finder.jumps


@pytest.mark.parametrize(
    ("times", "offsets"),
    [
        ([0, 1, 2, 3], []),
        ([0, 1, 2, 102], []),  # 10 s forward, as far as FFmpeg lets it be
        ([0, 1, 2, 104], [Fraction(-101, 10)]),
        ([0, 1, 2, 1], []),  # 0.1 s back: two packets that were exchanged
        ([0, 1, 2, 0], [Fraction(3, 10)]),
        ([5, 6, 0, 1, 2, 0, 1], [Fraction(7, 10), Fraction(1)]),
        ([None, 5, None, 6], []),
    ],
)
def test_jumps_are_those_of_ffmpeg(times: list[int | None], offsets: list[Fraction]) -> None:
    jumps = find_jumps([(time, 100 * number, 0) for number, time in enumerate(times)])
    assert list(jumps.offsets) == offsets


def test_all_streams_continue_from_the_same_place() -> None:
    """The last sound before the jump is read behind the first picture after it, as demuxers do."""
    packets = [(3, 0, 0), (3, 10, 1), (4, 20, 0), (4, 30, 1), (0, 50, 0), (5, None, 1), (0, 60, 1), (1, 70, 0), (1, None, 1)]
    jumps = find_jumps(packets)
    assert jumps == TimeJumps((50,), (Fraction(5, 10),), frozenset({0, 10, 20, 30}))
    correct, times = jumps.make_correction(), []
    for dts, pos, stream in packets:
        packet = make_packet(dts, pos, stream)
        correct(packet)
        times.append(packet.dts)
    assert times == [3, 3, 4, 4, 5, 5, 5, 6, 6]
    assert jumps.find_offset(49) == 0
    assert TimeJumps().find_offset(49) == 0


def test_only_formats_that_may_jump_are_read(tmp_path: Path) -> None:
    with av.open(str(Clip(frames=2).write(tmp_path / "in.mp4"))) as container:
        assert find_time_jumps(container) == TimeJumps()
        assert next(container.demux()).pts is not None  # nothing was read

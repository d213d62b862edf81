"""Reading: every intact frame once, with increasing times; damage is counted and not raised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from dni_deploy.errors import InputError
from dni_deploy.video_io import reader
from dni_deploy.video_io.frame_index import DroppedFrames
from dni_deploy.video_io.reader import VideoReader, _GapDetector, demux_past_errors
from dni_deploy.video_io.video_file import VideoFile, open_video_file
from tests.support.video_clips import Clip


@pytest.fixture
def video_file(tmp_path: Path) -> VideoFile:
    """Twenty frames, 512 ticks each."""
    return open_video_file(Clip(audio=None).write(tmp_path / "in.mp4"))


def test_frames_are_numbered_and_timed(video_file: VideoFile) -> None:
    reader = VideoReader(video_file)
    frames = list(reader)
    assert [frame.number for frame in frames] == list(range(20))
    assert [frame.pts for frame in frames] == [video_file.start_pts + 512 * number for number in range(20)]
    assert {frame.duration for frame in frames} == {512}
    assert {frame.rgb.shape for frame in frames} == {(48, 64, 3)}
    assert not reader.dropped_frames


def test_skipped_frames_are_numbered_but_not_delivered(video_file: VideoFile) -> None:
    assert [frame.number for frame in VideoReader(video_file, is_skipped=lambda number: number not in (3, 17))] == [3, 17]


def test_timestamps_that_do_not_increase_are_corrected(video_file: VideoFile) -> None:
    reader = VideoReader(video_file)

    def fix(pts: int | None) -> int:
        frame: Any = SimpleNamespace(pts=pts)
        return reader._fix_timestamp(frame)

    assert [fix(pts) for pts in (None, 100, 100, 50, None, 5000)] == [video_file.start_pts, 100, 101, 102, 102 + 512, 5000]
    assert reader.dropped_frames.adjusted_timestamps == 3
    assert not reader.dropped_frames.has_losses


@pytest.mark.parametrize("has_torn_bytes", [False, True])
def test_a_time_gap_is_a_loss_only_after_skipped_bytes(video_file: VideoFile, has_torn_bytes: bool) -> None:
    reader = VideoReader(video_file)
    first: Any = SimpleNamespace(pts=0)
    late_frame: Any = SimpleNamespace(pts=5 * 512)
    reader._fix_timestamp(first)
    if has_torn_bytes:
        reader._gap_times.append(3 * 512)
    reader._fix_timestamp(late_frame)
    assert reader.dropped_frames.has_losses == has_torn_bytes


def test_skipped_bytes_are_detected_across_all_streams() -> None:
    detector = _GapDetector()

    def read(pos: int, size: int, stream: int) -> bool:
        packet: Any = SimpleNamespace(pos=pos, size=size, stream_index=stream)
        return detector.has_gap_before(packet, 0)

    assert not read(100, 50, 0)
    assert not read(160, 50, 1)
    assert not read(220, 50, 0)  # there is only a header between them
    assert not read(5000, 50, 1)  # bytes were skipped, but no packet of the video has arrived yet
    assert read(5060, 50, 0)
    assert not read(5120, 50, 0)


def test_a_size_change_ends_the_video_with_an_error(video_file: VideoFile) -> None:
    object.__setattr__(video_file, "coded_size", (32, 24))
    with pytest.raises(InputError, match=r"changes from 32x24 to 64x48 at frame 0 \(0\.000 s\), and a video has one size"):
        next(iter(VideoReader(video_file)))


def test_losses_are_counted_once() -> None:
    """A damaged frame is usually missing, too."""
    assert DroppedFrames(True, damaged=3, missing=2).frames == 3
    assert not DroppedFrames(adjusted_timestamps=4)


def test_reading_goes_on_behind_places_that_cannot_be_read() -> None:
    parts: list[list[Any]] = [[1, 2, "error"], ["error"], [3]]

    def demux(*streams: object) -> Iterator[Any]:
        for item in parts.pop(0):
            if item == "error":
                raise av.error.InvalidDataError(1, "bad")
            yield item

    container: Any = SimpleNamespace(demux=demux)
    assert list(demux_past_errors(container, [])) == [1, 2, None, None, 3]


def test_a_file_that_cannot_be_read_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_CONSECUTIVE_READ_ERRORS", 3)

    def demux(*streams: object) -> Iterator[Any]:
        raise av.error.OSError(5, "gone")
        yield

    container: Any = SimpleNamespace(demux=demux)
    assert list(demux_past_errors(container, [])) == [None, None, None]

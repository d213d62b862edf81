"""Transcoding: every fault ends all threads, complete segments stay, and memory does not grow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import EngineError, InputError, LimitError
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.video_io import transcode
from dni_deploy.video_io.encoder import EncoderOptions, OutputFormat
from dni_deploy.video_io.frame_index import DroppedFrames
from dni_deploy.video_io.pipeline import make_completed_future
from dni_deploy.video_io.reader import VideoReader
from dni_deploy.video_io.resume import job_folder_path, open_job
from dni_deploy.video_io.transcode import TranscodeSettings, transcode_segments
from dni_deploy.video_io.video_file import open_video_file
from tests.support.frame_session import Dimmer
from tests.support.video_clips import Clip
from tests.support.video_command import Make

DEADLINE_S = 10.0
"""Far longer than any of these runs takes, so that a failure ends instead of hanging."""

ONE = Coefficients(("a",), (1.0,))


def identity(frame: Frame, seconds: float, number: int) -> Future[RenderedFrame]:
    return make_completed_future(RenderedFrame(frame, 0, ONE))


def transcode_clip(
    source_path: Path, output: Path, process_frame: Any = identity, segment_frames: int = 8, progress: Any = None
) -> DroppedFrames:
    """Writes only the segments of a file; they stay in the job folder."""
    source = open_video_file(source_path)
    settings = TranscodeSettings(
        EncoderOptions(crf=20, preset="ultrafast", segment_frames=segment_frames), OutputFormat.from_video_file(source, 1), True
    )
    with open_job(output, {}, segment_frames=segment_frames) as job:
        return transcode_segments(source, job, process_frame, settings, 1, progress)


def count_segments(output: Path) -> int:
    return len(list(job_folder_path(output).glob("*.segment")))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("dni-")]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, EngineError, SystemExit])
def test_an_error_in_the_frame_function_ends_all_threads(tmp_path: Path, kind: type[BaseException]) -> None:
    """After an error, the frames before it are encoded; an incomplete segment is not kept. Ctrl-C waits for no frame."""
    source = Clip(frames=60, audio=None).write(tmp_path / "in.mp4")

    def process_frame(frame: Frame, seconds: float, number: int) -> Future[RenderedFrame]:
        if number == 30:
            raise kind("the reason")
        return identity(frame, seconds, number)

    with pytest.raises(kind, match="the reason"):
        transcode_clip(source, tmp_path / "out.mp4", process_frame)
    segment_count = count_segments(tmp_path / "out.mp4")
    assert segment_count == 3 if kind is EngineError else segment_count <= 3
    assert not list(job_folder_path(tmp_path / "out.mp4").glob("*.part"))


@pytest.mark.parametrize("side", ["reader", "encoder"])
def test_an_error_in_a_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    source = Clip(frames=60, audio=None).write(tmp_path / "in.mp4")

    def fail(*arguments: object) -> None:
        raise InputError(f"the {side} failed")

    if side == "reader":
        monkeypatch.setattr(VideoReader, "_fix_timestamp", fail)
    else:
        monkeypatch.setattr(transcode.Encoder, "flush", fail)
    with pytest.raises(InputError, match=f"the {side} failed"):
        transcode_clip(source, tmp_path / "out.mp4")


def test_the_decoder_never_runs_far_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow network holds the decoder back: the frames between them are bounded."""
    source = Clip(frames=60, audio=None).write(tmp_path / "in.mp4")
    most = transcode.MAX_QUEUE_FRAMES + 2  # one in the frame function, and one that waits for space in the queue
    decoded, ahead = 0, 0
    is_full = threading.Event()
    fix_timestamp = VideoReader._fix_timestamp

    def count_frame(reader: VideoReader, frame: Any) -> int:
        nonlocal decoded
        decoded += 1
        if decoded == most:
            is_full.set()
        return fix_timestamp(reader, frame)

    def process_frame(frame: Frame, seconds: float, number: int) -> Future[RenderedFrame]:
        nonlocal ahead
        assert is_full.wait(DEADLINE_S)
        ahead = max(ahead, decoded - number)
        return identity(frame, seconds, number)

    monkeypatch.setattr(VideoReader, "_fix_timestamp", count_frame)
    transcode_clip(source, tmp_path / "out.mp4", process_frame)
    assert ahead <= most


def test_large_frames_make_short_queues() -> None:
    assert transcode._choose_queue_length(1280 * 720 * 3) == transcode.MAX_QUEUE_FRAMES
    assert transcode._choose_queue_length(3840 * 2160 * 3) == 2
    assert transcode._choose_queue_length(transcode.MAX_QUEUE_BYTES + 1) == 1
    with pytest.raises(LimitError, match="scale the video down"):
        transcode._choose_queue_length((1 << 31) + 1)


def test_progress_has_rate_and_remaining_time(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcode, "PROGRESS_INTERVAL_S", 0.0)
    steps: list[tuple[int, int, str]] = []
    make(Clip(audio=None).write(tmp_path / "in.mp4"), tmp_path / "out.mp4", progress=lambda *step: steps.append(step))
    assert [done for done, _, _ in steps[:20]] == list(range(1, 21))
    assert all(total == 20 for _, total, _ in steps)
    assert "frames/s, 0:00:00 left" in steps[5][2]


@pytest.mark.slow
def test_memory_use_is_constant(tmp_path: Path) -> None:
    """From frame 1,000 to frame 20,000 resident memory grows by no more than 20 MB."""
    source = Clip(frames=20_000, width=32, height=32, audio=None, gop=250).write(tmp_path / "in.mp4")
    this_process, sizes = psutil.Process(), {}

    def process_frame(frame: Frame, seconds: float, number: int) -> Future[RenderedFrame]:
        if number in (1_000, 5_000, 10_000, 19_999):
            sizes[number] = this_process.memory_info().rss
        return identity(frame, seconds, number)

    transcode_clip(source, tmp_path / "out.mp4", process_frame, segment_frames=250)
    assert sizes[19_999] - sizes[1_000] <= 20e6, sizes

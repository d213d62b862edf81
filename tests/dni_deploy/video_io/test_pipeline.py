"""Pipeline: three threads that end together, and memory that does not grow."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import EngineError, InputError
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.video_io import pipeline
from dni_deploy.video_io.encoder import EncoderSettings, OutputFormat
from dni_deploy.video_io.pipeline import PipelineSettings, run_pipeline
from dni_deploy.video_io.queues import AbortableQueue, QueueClosedError
from dni_deploy.video_io.reader import DroppedFrames, VideoReader
from dni_deploy.video_io.resume import open_job
from dni_deploy.video_io.video_file import open_video_file
from tests.support.frame_session import Dimmer
from tests.support.video_clips import Clip
from tests.support.video_command import Make

ONE = Coefficients(("a",), (1.0,))


def identity(frame: Frame, seconds: float, number: int) -> RenderedFrame:
    return RenderedFrame(frame, 0, ONE)


def run(source_path: Path, output: Path, effect: Any = identity, segment: int = 8, progress: Any = None) -> DroppedFrames:
    """The pipeline alone; the segments stay."""
    source = open_video_file(source_path)
    settings = PipelineSettings(
        EncoderSettings(crf=20, preset="ultrafast"), OutputFormat.from_video_file(source, 1), True, segment
    )
    with open_job(output, {}) as job:
        return run_pipeline(source, job, effect, settings, 1, progress)


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dni-")]


def test_a_channel_is_bounded_ends_and_breaks() -> None:
    channel: AbortableQueue[int] = AbortableQueue(2)
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(channel))
    channel.put(1)
    channel.put(2)
    full = threading.Thread(target=lambda: channel.put(3))
    full.start()
    time.sleep(0.02)
    assert full.is_alive()
    reader.start()
    full.join(5)
    channel.close()
    reader.join(5)
    assert got == [1, 2, 3]
    broken: AbortableQueue[int] = AbortableQueue(1)
    broken.put(1)
    threading.Timer(0.02, broken.abort).start()
    with pytest.raises(QueueClosedError):
        broken.put(2)
    with pytest.raises(QueueClosedError):
        next(iter(broken))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, EngineError, SystemExit])
def test_an_exception_of_the_effect_ends_all(tmp_path: Path, kind: type[BaseException]) -> None:
    source = Clip(frames=60, audio=None).write(tmp_path / "in.mp4")

    def effect(frame: Frame, seconds: float, number: int) -> RenderedFrame:
        if number == 30:
            raise kind("told")
        return identity(frame, seconds, number)

    before = time.monotonic()
    with pytest.raises(kind, match="told"):
        run(source, tmp_path / "out.mp4", effect)
    assert time.monotonic() - before < 10
    assert not ours()


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_an_exception_of_a_thread_is_the_one_that_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    source = Clip(frames=60, audio=None).write(tmp_path / "in.mp4")

    def fail(*arguments: object) -> None:
        raise InputError(f"the {side} failed")

    if side == "reader":
        monkeypatch.setattr(VideoReader, "_fix_timestamp", fail)
    else:
        monkeypatch.setattr(pipeline.Encoder, "flush", fail)
    before = time.monotonic()
    with pytest.raises(InputError, match=f"the {side} failed"):
        run(source, tmp_path / "out.mp4")
    assert time.monotonic() - before < 10
    assert not ours()


def test_the_reader_never_runs_far_ahead(tmp_path: Path) -> None:
    """A slow effect holds the decoder back: frames that are between them are bounded."""
    source = Clip(frames=60, audio=None).write(tmp_path / "in.mp4")
    made, most = [0], [0]
    real = VideoReader._fix_timestamp

    def counted(reader: VideoReader, frame: Any) -> int:
        made[0] += 1
        return real(reader, frame)

    def effect(frame: Frame, seconds: float, number: int) -> RenderedFrame:
        time.sleep(0.002)
        most[0] = max(most[0], made[0] - number)
        return identity(frame, seconds, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoReader, "_fix_timestamp", counted)
        run(source, tmp_path / "out.mp4", effect)
    assert most[0] <= pipeline.MAX_QUEUE_FRAMES + 2  # the one in the effect, and the one that waits for room


def test_progress_tells_the_pace(tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PROGRESS_INTERVAL_S", 0.0)
    told: list[tuple[int, int, str]] = []
    make(Clip(audio=None).write(tmp_path / "in.mp4"), tmp_path / "out.mp4", progress=lambda *step: told.append(step))
    assert [done for done, _, _ in told[:20]] == list(range(1, 21))
    assert all(total == 20 for _, total, _ in told)
    assert "frames/s, 0:00:00 left" in told[5][2]


@pytest.mark.slow
def test_memory_is_flat(tmp_path: Path) -> None:
    """From frame 1,000 to frame 20,000 resident memory grows by no more than the issue's 20 MB."""
    source = Clip(frames=20_000, width=32, height=32, audio=None, gop=250).write(tmp_path / "in.mp4")
    process_now, sizes = psutil.Process(), {}

    def effect(frame: Frame, seconds: float, number: int) -> RenderedFrame:
        if number in (1_000, 5_000, 10_000, 19_999):
            sizes[number] = process_now.memory_info().rss
        return identity(frame, seconds, number)

    run(source, tmp_path / "out.mp4", effect, segment=250)
    assert sizes[19_999] - sizes[1_000] <= 20e6, sizes

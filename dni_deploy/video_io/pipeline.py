"""Pipeline: decode, effect and encode at the same time, in three threads with bounded queues between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Thread
from typing import NamedTuple

from dni_deploy.errors import EngineError, InputError, LimitError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS
from dni_deploy.utils.progress import OptionalProgress, report_progress
from dni_deploy.video_io.encoder import Encoder, EncoderSettings, OutputFormat
from dni_deploy.video_io.queues import AbortableQueue, QueueClosedError
from dni_deploy.video_io.reader import DecodedFrame, DroppedFrames, VideoReader
from dni_deploy.video_io.resume import VideoJob
from dni_deploy.video_io.segments import FrameAlphaRecord, FrameCountError, SegmentWriter
from dni_deploy.video_io.video_file import VideoFile

FrameFunction = Callable[[Frame, float, int], RenderedFrame]
"""effect(frame, seconds since the first frame, frame number) -> what came of it. Called in the thread that called `run_pipeline`."""

MAX_QUEUE_BYTES = 64 << 20
MAX_QUEUE_FRAMES = 8
"""Each queue holds at most this much, whichever is less; never less than one frame."""

PROGRESS_INTERVAL_S = 0.1
"""Seconds between two words of progress."""

THREAD_JOIN_TIMEOUT_S = 60.0
"""Seconds that a thread gets to finish the frame it is at when the run is over."""


class JobFolderError(InputError):
    """The work folder cannot be written; the film itself is not at fault, so what is done stays."""

    kind = "JobFolderError"


class ProcessedFrame(NamedTuple):
    """A frame on its way to the encoder."""

    number: int
    pts: int
    duration: int
    rgb: Frame
    alpha: FrameAlphaRecord


@dataclass
class PipelineSettings:
    """How a film is made; segment_frames: as many frames a segment has, the last one fewer."""

    encoder: EncoderSettings
    output_format: OutputFormat
    global_header: bool
    segment_frames: int
    hwaccel: str | None = None


def run_pipeline(
    video_file: VideoFile,
    job: VideoJob,
    process_frame: FrameFunction,
    settings: PipelineSettings,
    scale: int,
    progress: OptionalProgress = None,
) -> DroppedFrames:
    """Make the segments that the job does not have yet; returns what the film lost.

    The first exception of any thread ends all of them and is raised; Ctrl-C too. Whole segments stay in the job.
    """
    reader = VideoReader(video_file, skip=job.resumed_frames, hwaccel=settings.hwaccel)
    pixels = video_file.width * video_file.height * 3
    taken: AbortableQueue[DecodedFrame] = AbortableQueue(_choose_queue_length(pixels))
    made: AbortableQueue[ProcessedFrame] = AbortableQueue(_choose_queue_length(pixels * scale * scale))
    failures: list[BaseException] = []

    def run_guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except QueueClosedError:
            pass
        except BaseException as error:
            failures.append(error)
            taken.abort()
            made.abort()

    def read_frames() -> None:
        for picture in reader:
            taken.put(picture)
        taken.close()

    threads = [
        Thread(target=run_guarded, args=(read_frames,), name="dni-read", daemon=True),
        Thread(target=run_guarded, args=(lambda: _encode_segments(made, job, settings),), name="dni-write", daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        _process_frames(taken, made, video_file, job, process_frame, scale, progress)
        made.close()
        for thread in threads:
            thread.join()
    except QueueClosedError:
        pass  # a thread's own exception tells more
    finally:
        taken.abort()
        made.abort()
        for thread in threads:
            thread.join(THREAD_JOIN_TIMEOUT_S)
    if failures:
        raise failures[0]
    return reader.dropped_frames


def _process_frames(
    decoded: Iterable[DecodedFrame],
    processed: AbortableQueue[ProcessedFrame],
    video_file: VideoFile,
    job: VideoJob,
    process_frame: FrameFunction,
    scale: int,
    progress: OptionalProgress,
) -> None:
    done, shift, pace = job.resumed_frames, 0, _ProgressMeter(job.resumed_frames, video_file.frame_count, progress)
    last = job.segments[-1].last_alpha if job.segments else None
    for picture in decoded:
        seconds = float((picture.pts - video_file.start_pts) * video_file.time_base)
        stamped = process_frame(picture.rgb, seconds, picture.number)
        if stamped.output.shape != (video_file.height * scale, video_file.width * scale, 3):
            raise EngineError(
                f"The network made a frame of {stamped.output.shape[1]}x{stamped.output.shape[0]} where "
                f"{video_file.width * scale}x{video_file.height * scale} was expected."
            )
        if last is not None:
            # Generations go on counting where the stopped run's last whole segment ended.
            changed = last.coefficients != stamped.coefficients.values
            shift, last = last.generation + changed - stamped.generation, None
        row = FrameAlphaRecord(seconds, stamped.generation + shift, stamped.coefficients.values)
        processed.put(ProcessedFrame(picture.number, picture.pts, picture.duration, stamped.output, row))
        done += 1
        pace.report_frames(done)


def _encode_segments(processed: Iterable[ProcessedFrame], job: VideoJob, settings: PipelineSettings) -> None:
    writer: SegmentWriter | None = None
    encoder: Encoder | None = None
    try:
        for frame in processed:
            if writer is None or encoder is None:
                writer = job.begin_segment()
                encoder = Encoder(settings.encoder, settings.output_format, global_header=settings.global_header)
            writer.add_frame(frame.pts, frame.duration, frame.alpha)
            for packet in encoder.encode(frame.rgb, frame.pts):
                writer.add_packet(packet)
            if writer.frames == settings.segment_frames:
                _close_segment(job, writer, encoder)
                writer = encoder = None
        if writer is not None and encoder is not None:
            _close_segment(job, writer, encoder)
            writer = None
    except OSError as error:
        kind = LimitError if error.errno in DISK_FULL_ERRNOS else JobFolderError
        raise kind(
            f"The work folder {escape_name(job.folder)} could not be written ({error.strerror}); its whole segments stay, and the same "
            "command goes on behind them."
        ) from error
    finally:
        if writer is not None:
            writer.discard()


def _close_segment(job: VideoJob, writer: SegmentWriter, encoder: Encoder) -> None:
    for packet in encoder.flush():
        writer.add_packet(packet)
    try:
        job.segments.append(writer.close())
    except FrameCountError as lost:
        frames, packets = lost.args
        raise EngineError(f"The encoder made {packets} packets of {frames} frames; choose another --codec.") from lost


def _choose_queue_length(frame_bytes: int) -> int:
    if frame_bytes > 1 << 31:
        raise LimitError(f"A frame of {frame_bytes / 1e9:.1f} GB is too large; make the film smaller.")
    return max(1, min(MAX_QUEUE_FRAMES, MAX_QUEUE_BYTES // frame_bytes))


class _ProgressMeter:
    """Frames per second and remaining time, told now and then."""

    def __init__(self, done: int, total: int, progress: OptionalProgress) -> None:
        self._resumed_frames, self._total, self._progress = done, total, progress
        self._started_at = self._reported_at = time.monotonic()

    def report_frames(self, done: int) -> None:
        now = time.monotonic()
        if self._progress is None or now - self._reported_at < PROGRESS_INTERVAL_S:
            return
        self._reported_at = now
        rate = (done - self._resumed_frames) / (now - self._started_at)
        left = max(0, self._total - done) / rate
        minutes, seconds = divmod(round(left), 60)
        remaining = f", {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left" if self._total else ""
        report_progress(self._progress, done, max(self._total, done), f"{rate:.1f} frames/s{remaining}")

"""Decode, process and encode a video file, segment by segment."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from av.video.format import VideoFormat
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, InputError, LimitError, escape_name
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.imaging.transparency import resize_transparency
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS
from dni_deploy.utils.progress import OptionalProgress, report_progress
from dni_deploy.video_io.color import component_bits, has_transparency
from dni_deploy.video_io.encoder import Encoder, EncoderOptions, OutputFormat
from dni_deploy.video_io.frame_index import DroppedFrames
from dni_deploy.video_io.pipeline import PipelineLimits, run_pipeline
from dni_deploy.video_io.reader import DecodedFrame, FrameRange, VideoReader
from dni_deploy.video_io.resume import VideoJob
from dni_deploy.video_io.segments import FrameAlphaRecord, SegmentWriter
from dni_deploy.video_io.video_file import InputOptions, VideoFile

FrameFunction = Callable[[AnyFrame, float, int], Future[RenderedFrame]]
"""process_frame(frame, seconds since the first frame, frame number) -> rendered frame. Called in the thread of the caller."""

MAX_QUEUE_BYTES = 64 << 20
MAX_QUEUE_FRAMES = 8
"""Each queue holds at most this much, whichever is less, but never less than one frame."""

PROGRESS_INTERVAL_S = 0.1
"""Seconds between two reports of progress."""

THREAD_JOIN_TIMEOUT_S = 60.0
"""Seconds that a thread gets to finish its frame when the run is over: a large frame through a slow encoder takes long."""


class JobFolderError(InputError):
    """The job folder cannot be written. The video is not at fault, so what is done stays."""

    kind = "JobFolderError"


class ProcessedFrame(NamedTuple):
    """A frame on its way to the encoder.

    Attributes:
        number: Number in the video, from 0.
        pts: Timestamp in ticks of the source.
        duration: Duration in ticks, 0 where the source does not say it.
        rgb: uint8 or uint16 (H, W, 3).
        alpha: What it was rendered with.
        transparency: uint8 or uint16 (H, W), or None.
        is_interlaced: As in DecodedFrame.
        has_pulldown: As in DecodedFrame.
    """

    number: int
    pts: int
    duration: int
    rgb: AnyFrame
    alpha: FrameAlphaRecord
    transparency: NDArray[Any] | None = None
    is_interlaced: bool = False
    has_pulldown: bool = False


@dataclass(frozen=True)
class TranscodeSettings:
    """How a video is made.

    Attributes:
        encoder: The encoder and its options.
        output_format: Size, timing and color of the output.
        global_header: The container keeps the encoder's header.
        input_options: How the video is read.
    """

    encoder: EncoderOptions
    output_format: OutputFormat
    global_header: bool
    input_options: InputOptions = field(default_factory=InputOptions)


@dataclass(frozen=True)
class SegmentRun:
    """Consecutive segments that are made by themselves.

    Attributes:
        frame_range: Their frames.
        first_generation: Generation of the first frame, as a run from the beginning counts.
        total: Number of frames of the whole job, for its progress.
    """

    frame_range: FrameRange
    first_generation: int = 1
    total: int = 0


def transcode_segments(
    video_file: VideoFile,
    job: VideoJob,
    process_frame: FrameFunction,
    settings: TranscodeSettings,
    scale: int,
    progress: OptionalProgress = None,
    *,
    run: SegmentRun | None = None,
) -> DroppedFrames:
    """Makes segments. Whole segments stay in the job, whatever ends the run.

    Args:
        video_file: The input.
        job: The job; its segments are added to.
        process_frame: Begins to render one frame. Called in order, in the caller's thread.
        settings: How the output is made.
        scale: The output is that many times as wide and high.
        progress: Gets frames per second and the remaining time.
        run: Which segments; None: all, from the beginning to wherever the video ends.

    Returns:
        What the input has lost, where all of it was read.

    Raises:
        IndexMismatchError: The frames are not those of the index of the run; those of whole segments are.
        InputError: A frame has another size, or the job folder cannot be written (JobFolderError).
        LimitError: A frame is too large, or there is no room on the disk.
        EngineError: The network or the encoder gave something else than it should.
        UnavailableError: The encoder failed.
    """
    reader = VideoReader(
        video_file,
        frame_range=None if run is None else run.frame_range,
        options=settings.input_options,
        keeps_depth=True,
        keeps_transparency=has_transparency(VideoFormat(settings.output_format.pixel_format)),
    )
    bytes_per_pixel = 3 if component_bits(VideoFormat(video_file.pixel_format)) <= 8 else 6
    frame_bytes = video_file.width * video_file.height * bytes_per_pixel
    limits = PipelineLimits(
        _choose_queue_length(frame_bytes), _choose_queue_length(frame_bytes * scale * scale), THREAD_JOIN_TIMEOUT_S
    )
    output_shape = (video_file.height * scale, video_file.width * scale, 3)
    generation_offset: int | None = None
    progress_meter = _ProgressMeter(job.frames, run.total if run is not None else video_file.frame_count, progress)

    def find_seconds(decoded: DecodedFrame) -> float:
        return video_file.find_seconds(decoded.pts)

    def finish_frame(decoded: DecodedFrame, rendered: RenderedFrame) -> ProcessedFrame:
        nonlocal generation_offset
        if rendered.output.shape != output_shape:
            height, width = rendered.output.shape[:2]
            raise EngineError(
                f"The network made a frame of {width}x{height} where {output_shape[1]}x{output_shape[0]} was expected."
            )
        if generation_offset is None:  # a session counts from its own first frame
            generation_offset = (1 if run is None else run.first_generation) - rendered.generation
        alpha = FrameAlphaRecord(find_seconds(decoded), rendered.generation + generation_offset, rendered.coefficients.values)
        progress_meter.count_frame()
        transparency = None if decoded.transparency is None else resize_transparency(decoded.transparency, *output_shape[:2])
        return ProcessedFrame(
            decoded.number,
            decoded.pts,
            decoded.duration,
            rendered.output,
            alpha,
            transparency,
            decoded.is_interlaced,
            decoded.has_pulldown,
        )

    run_pipeline(
        reader,
        lambda decoded: process_frame(decoded.rgb, find_seconds(decoded), video_file.first_number + decoded.number),
        lambda frames: _encode_segments(itertools.starmap(finish_frame, frames), job, settings),
        limits,
    )
    return reader.dropped_frames


def _encode_segments(frames: Iterator[ProcessedFrame], job: VideoJob, settings: TranscodeSettings) -> None:
    """Encodes frames into segments. The last one becomes whole only where the frames end without an error."""
    writer: SegmentWriter | None = None
    encoder: Encoder | None = None
    try:
        for frame in frames:
            if writer is None or encoder is None:
                writer = job.begin_segment(frame.number)
                encoder = Encoder(settings.encoder, settings.output_format, global_header=settings.global_header)
            marks = {"is_interlaced": frame.is_interlaced, "has_pulldown": frame.has_pulldown}
            writer.add_frame(frame.pts, frame.duration, frame.alpha, **marks)
            for packet in encoder.encode(frame.rgb, frame.pts, frame.transparency):
                writer.add_packet(packet)
            del frame
            if writer.frames == job.segment_frames:
                _close_segment(job, writer, encoder)
                writer = encoder = None
        if writer is not None and encoder is not None:
            _close_segment(job, writer, encoder)
            writer = None
    except OSError as error:
        kind = LimitError if error.errno in DISK_FULL_ERRNOS else JobFolderError
        raise kind(
            f"The job folder {escape_name(job.folder)} could not be written ({error.strerror}); its whole segments stay, "
            "and the same command continues after them."
        ) from error
    finally:
        if writer is not None:
            writer.discard()


def _close_segment(job: VideoJob, writer: SegmentWriter, encoder: Encoder) -> None:
    for packet in encoder.flush():
        writer.add_packet(packet)
    job.add_segment(writer.close())


def _choose_queue_length(frame_bytes: int) -> int:
    if frame_bytes > 1 << 31:
        raise LimitError(f"A frame of {frame_bytes / 1e9:.1f} GB is too large; scale the video down.")
    return max(1, min(MAX_QUEUE_FRAMES, MAX_QUEUE_BYTES // frame_bytes))


class _ProgressMeter:
    """Reports frames per second and the remaining time, every PROGRESS_INTERVAL_S."""

    def __init__(self, resumed_frames: int, total: int, progress: OptionalProgress) -> None:
        self._resumed_frames, self._total, self._progress = resumed_frames, total, progress
        self._done = resumed_frames
        self._started_at = self._reported_at = time.monotonic()

    def count_frame(self) -> None:
        self._done += 1
        now = time.monotonic()
        if self._progress is None or now - self._reported_at < PROGRESS_INTERVAL_S:
            return
        self._reported_at = now
        rate = (self._done - self._resumed_frames) / (now - self._started_at)
        minutes, seconds = divmod(round(max(0, self._total - self._done) / rate), 60)
        remaining = f", {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left" if self._total else ""
        report_progress(self._progress, self._done, max(self._total, self._done), f"{rate:.1f} frames/s{remaining}")

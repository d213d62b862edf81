"""Processes a video, with alpha over time or for each pixel; a run that was stopped resumes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.api.video_settings import SESSION_KEYS, VideoRequest, VideoSettings, check_request
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import InputError, PartialResultError, escape_name
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from dni_deploy.utils.atomic_write import write_file_atomically
from dni_deploy.utils.format_count import format_numbers
from dni_deploy.utils.progress import OptionalProgress, report_progress
from dni_deploy.video_io.encoder import EncoderOptions, OutputFormat, keeps_hdr
from dni_deploy.video_io.frame_index import DroppedFrames, FrameIndex, IndexMismatchError
from dni_deploy.video_io.image_sequence import write_frames
from dni_deploy.video_io.index_pass import index_by_decoding, make_index
from dni_deploy.video_io.mux import FRAMES_MUXER, mux_segments
from dni_deploy.video_io.output_notes import describe_output_format
from dni_deploy.video_io.reader import FrameRange, SizeChangeError
from dni_deploy.video_io.resume import VideoJob, has_started_log, open_job
from dni_deploy.video_io.segment_units import SegmentUnit
from dni_deploy.video_io.transcode import SegmentRun, transcode_segments
from dni_deploy.video_io.video_file import InputOptions, VideoFile

LOST_HDR_NOTE = "mastering display and light levels (HDR10) are lost: --codec libx265 and .mp4, .mov or .mkv keep them"

NO_KEY_FRAME_REASON = "no key frame before them is safe to begin at (damage, or periodic intra refresh)"
FAR_DECODED_REASON = "decoding from the key frame before them gives other frames"


@dataclass(frozen=True)
class VideoReport:
    """What `video` did.

    Attributes:
        source: The video that was read.
        output: The video that was written.
        frames: Number of frames of the output.
        resumed_frames: Number of them that an earlier run had finished.
        width: Width of the output in pixels.
        height: Height of the output in pixels.
        engine: Name of the engine.
        engine_reason: Why this engine was chosen.
        codec: The encoder.
        seconds: Time for everything, without opening the engine.
        notes: How the video was interpreted, and what could not be kept.
    """

    source: str
    output: str
    frames: int
    resumed_frames: int
    width: int
    height: int
    engine: str
    engine_reason: str
    codec: str
    seconds: float
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def video(
    bundle_path: Bundle | str | os.PathLike[str],
    source_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    alpha: Alpha | AlphaSource | str | os.PathLike[str] | None = None,
    *,
    alpha_map: AlphaMapOptions | str | os.PathLike[str] | None = None,
    options: SessionOptions | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    encoder: EncoderOptions | None = None,
    input_options: InputOptions | None = None,
    fresh: bool = False,
    alpha_log: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
) -> VideoReport:
    """Processes a video; sound, subtitles, chapters and every timestamp are kept.

    Args:
        bundle_path: The bundle or its path.
        source_path: The video; or a folder of pictures, or their names with a number, such as "in/%05d.png".
        output: The video to write: .mp4, .mov, .mkv, .webm, .avi, .ts, .mxf, .gif or another of MUXER_BY_SUFFIX; or
            pictures, "out/%05d.png", numbered as the frames of the video, from 0.
        alpha: An alpha, alpha over time as open_alpha_source reads it, or an AlphaSource; required unless there is an alpha
            map between two members.
        alpha_map: A gray image, or a video with a gray frame for each frame: each pixel gets an alpha between `alpha`
            (black) and that of its white, see render_map. The white may change over time, too. The alpha log holds that of
            black.
        options: Options of the session, its rules among them. Its controls may be over time, as `alpha` is.
        tile: Side of the tiles in input pixels; None: no tiles.
        overlap: Number of input pixels that tiles share; None: the network's radius.
        encoder: How the output is encoded, and how many frames a segment has.
        input_options: How the video is read, and which of its streams are kept.
        fresh: Start again. Otherwise a run that was stopped, which leaves its complete segments in the folder
            OUTPUT.dni-part, resumes after the last one, and writes the same bytes as a run that was never stopped.
        alpha_log: A file to write each frame's time, generation and alpha to.
        force: Replace an output that exists.
        progress: Called with the frames done.

    Returns:
        What was done.

    Raises:
        UsageError: An output exists, a stopped job has other settings, the codec is unknown, or the container cannot hold a
            stream.
        InputError: The source is no video, or its size changes; nothing is written.
        RefusedError: The source is a playlist.
        UnavailableError: There is no such encoder or hardware.
        PartialResultError: Frames of the video are damaged, and the others were processed.
        DniError: As open_session raises.
    """
    request = VideoRequest(
        bundle_path=bundle_path,
        source_path=source_path,
        output=output,
        alpha=alpha,
        alpha_map=alpha_map,
        options=options,
        tile=tile,
        overlap=overlap,
        encoder=encoder,
        input_options=input_options,
        alpha_log=alpha_log,
        force=force,
    )
    settings = check_request(request, progress)
    started = time.perf_counter()
    with open_video_job(settings, fresh=fresh or settings.is_live) as job, SegmentMaker(settings, job, progress) as maker:
        with _remove_useless_job(job):
            dropped_frames = maker.make_all()
        return finish_video(maker, dropped_frames, started)


def open_video_job(settings: VideoSettings, *, fresh: bool = False, shared: bool = False) -> AbstractContextManager[VideoJob]:
    """Opens the job of a request; the arguments and errors are those of `open_job`."""
    return open_job(
        settings.output_path,
        settings.description,
        segment_frames=settings.transcode.encoder.segment_frames,
        fresh=fresh,
        shared=shared,
        unknown=SESSION_KEYS,
    )


class SegmentMaker:
    """Makes the segments of a job, and opens the network when the first one is needed.

    Attributes:
        settings: Of the job.
        job: The job.
        session: The open network, or None.
        index: The frames of the video, by which segments are made in any order.
        opening_seconds: Time that opening the network took.
        total_frames: Number of frames that are to be made in all, for the progress.

    Thread safety: For one thread.
    """

    def __init__(self, settings: VideoSettings, job: VideoJob, progress: OptionalProgress = None) -> None:
        """Prepares; nothing is opened yet."""
        self.settings, self.job, self._progress = settings, job, progress
        self.session: Session | None = None
        self.index = FrameIndex((), 0, 0)
        self.opening_seconds = 0.0
        self.total_frames = 0
        self._far_segments: dict[str, set[int]] = {}  # what was decoded from the beginning, by the reason
        self._generations: list[int] = []

    def __enter__(self) -> SegmentMaker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.session is not None:
            self.session.close()

    @property
    def notes(self) -> list[str]:
        """How segments were made, where that is not as usual, one phrase each."""
        notes = [
            f"decoded from the beginning of the video: segments {format_numbers(sorted(numbers))}, since {reason}"
            for reason, numbers in self._far_segments.items()
        ]
        if self.index.is_decoded:
            notes.insert(0, "its packets do not tell its frames: all of it was decoded once for the list of segments")
        return notes

    def make_all(self) -> DroppedFrames:
        """Makes all segments that the job does not have: in one run where there is none yet, else by the index.

        Returns:
            What the video has lost.

        Raises:
            InputError: No frame can be decoded; and as `transcode_segments`, whose other errors it raises, too.
        """
        job = self.job
        if job.stored_segments:
            self.load_index()
            while missing := self.list_missing():
                with suppress(IndexReplacedError):
                    self.make_unit(missing[0])
            return self.collect_dropped_frames()
        dropped_frames = self._transcode(None)
        if not job.segments:
            video_path = escape_name(self.settings.source.path)
            raise InputError(f"{video_path} holds no frame that can be decoded. Nothing was written.")
        job.check_has_no_gap()
        return dropped_frames

    def load_index(self) -> None:
        """Reads the index that a run before, or another process, has made; else makes it. Segments that differ are forgotten."""
        source, options = self.settings.source, self.settings.transcode.input_options
        index = self.job.read_index()
        if index is None:
            report_progress(self._progress, 0, source.frame_count, "listing the frames")
            index = make_index(source, options)
        self._set_index(index)
        if self.job.keep_segments_of(index) and not index.is_decoded:
            # They were decoded, so they are right, and damage changed what the packets promise.
            self._replace_index()

    def use_index(self, index: FrameIndex) -> None:
        """Takes the index that another process has made."""
        self._set_index(index)

    def list_missing(self) -> list[SegmentUnit]:
        """Lists the runs of segments that the job does not have."""
        return SegmentUnit(tuple(self.index.list_segments(self.job.segment_frames))).split_missing(self.job.stored_segments)

    def make_unit(self, unit: SegmentUnit) -> None:
        """Makes consecutive segments, from the key frame before them on; whole ones of them are skipped.

        Raises:
            IndexReplacedError: The video has other frames than its packets promise, and the index was made anew.
            InputError: The frames cannot be read; and as `transcode_segments`, whose other errors it raises, too.
        """
        try:
            self._make_missing(unit, from_beginning=False)
        except IndexMismatchError as error:
            if not self.index.is_decoded:
                self._replace_index()
                raise IndexReplacedError(str(error)) from error
            self._make_missing(unit, from_beginning=True)
        missing = unit.split_missing(self.job.stored_segments)
        if missing:
            raise self.job.make_gap_error(missing[0].first_frame, missing[0].end_frame)

    def collect_dropped_frames(self) -> DroppedFrames:
        """Returns what the video has lost, as one run over all of it finds it."""
        if self.index.is_decoded:
            return self.index.dropped_frames
        segments = self.job.segments
        interlaced, pulldown = (sum(getattr(one, name) for one in segments) for name in ("interlaced", "pulldown"))
        return replace(self.index.dropped_frames, interlaced=interlaced, pulldown=pulldown)

    def _make_missing(self, unit: SegmentUnit, *, from_beginning: bool) -> None:
        for part in unit.split_missing(self.job.stored_segments):
            self.open_network()
            frame_range = FrameRange(self.index, part.first_frame, part.end_frame, from_beginning)
            key_frame = frame_range.find_key_frame()
            # That far there should be another key frame.
            if part.first_frame > self.job.segment_frames and (key_frame is None or key_frame.rank == 0):
                reason = FAR_DECODED_REASON if from_beginning else NO_KEY_FRAME_REASON
                self._far_segments.setdefault(reason, set()).update(place.number for place in part.places)
            if not self._generations:
                self._generations = self.settings.list_generations(self.index)
            self._transcode(SegmentRun(frame_range, self._generations[part.first_frame], self.total_frames))

    def _transcode(self, run: SegmentRun | None) -> DroppedFrames:
        settings = self.settings
        session = self.open_network()
        process_frame = settings.make_frame_function(session)
        return transcode_segments(
            settings.source, self.job, process_frame, settings.transcode, settings.scale, self._progress, run=run
        )

    def open_network(self) -> Session:
        """Opens the network, unless it is open, and writes what the job is if that is not written yet."""
        if self.session is None:
            started = time.perf_counter()
            settings = self.settings
            self.session = open_session(settings.bundle, settings.session_options, alpha=settings.alphas.at(0.0, 0))
            self.job.complete_description(settings.describe_session(self.session))
            if self.index.frames:
                self.job.write_index(self.index)
            self.opening_seconds = time.perf_counter() - started
        return self.session

    def _replace_index(self) -> None:
        """Decodes the whole video for its index."""
        source = self.settings.source
        report_progress(self._progress, 0, source.frame_count, "listing the frames by decoding them")
        index = index_by_decoding(source, self.settings.transcode.input_options)
        self._set_index(index)
        self.job.write_index(index)
        self.job.keep_segments_of(index)

    def _set_index(self, index: FrameIndex) -> None:
        self.index, self._generations, self.total_frames = index, [], index.frames


class IndexReplacedError(Exception):
    """The frames of the video are others than its packets promise: whoever planned by them plans again."""


def finish_video(maker: SegmentMaker, dropped_frames: DroppedFrames, started: float) -> VideoReport:
    """Puts the segments of a job together and removes it.

    Args:
        maker: It has made all segments that were missing.
        dropped_frames: What the video has lost.
        started: When the run began, as time.perf_counter() counts.

    Raises:
        PartialResultError: Frames of the video are damaged, and the others were processed.
        LimitError: There is no room.
        JoinError: The segments cannot be put together; they stay.
    """
    settings, job, session = maker.settings, maker.job, maker.session
    source, encoder, output_format = settings.source, settings.transcode.encoder, settings.transcode.output_format
    output_path, plan, force = settings.output_path, settings.plan, settings.request.force
    report_progress(maker._progress, job.frames, job.frames, "joining the segments")
    if settings.log_path is not None:
        logged = has_started_log(output_path)
        job.mark_log_started()
        _write_log(settings.log_path, job, settings.bundle, source.first_number, force or logged)
    if plan.muxer == FRAMES_MUXER:
        job.mark_log_started()  # so that the same command may go on where it is stopped between two pictures
        write_frames(output_path, job.segments, source.first_number)
    else:
        with write_file_atomically(output_path, force=force) as temporary:
            mux_segments(temporary, plan, job.segments, source, encoder, output_format)
            job.mark_published(temporary)
    job.remove()
    report = VideoReport(
        source=os.fspath(source.path),
        output=os.fspath(output_path),
        frames=job.frames,
        resumed_frames=job.resumed_frames,
        width=output_format.width,
        height=output_format.height,
        engine=session.engine.name if session is not None else job.stored_description["engine"][0],
        engine_reason=session.engine_reason if session is not None else "",
        codec=encoder.codec,
        seconds=time.perf_counter() - started - maker.opening_seconds,
        notes=(
            *source.notes,
            *plan.notes,
            *_describe_adjustments(source, settings.scale, output_format, encoder.codec, dropped_frames, job),
            *([] if keeps_hdr(encoder, output_format, plan.muxer) else [LOST_HDR_NOTE]),
            *_describe_fields(source, dropped_frames, settings.transcode.input_options),
            *maker.notes,
        ),
    )
    if dropped_frames:
        raise PartialResultError(_describe_losses(source.path, output_path, report.frames, dropped_frames))
    return report


def _write_log(path: Path, job: VideoJob, bundle: Bundle, first_number: int, force: bool) -> None:
    with write_file_atomically(path, force=force) as temporary, AlphaLog(temporary, bundle.members, bundle.digest) as log:
        for segment in job.segments:
            for number, row in enumerate(segment.read_footer().alphas, first_number + segment.first_frame):
                log.write(number, row.seconds, row.generation, Coefficients(bundle.members, row.coefficients))


@contextmanager
def _remove_useless_job(job: VideoJob) -> Iterator[None]:
    """Removes a job that ends without a whole segment, or at a frame at which it would always end. Any other stays."""
    try:
        yield
    except SizeChangeError:
        job.remove()
        raise
    except BaseException:
        if not job.segments:
            job.remove()
        raise


def _describe_adjustments(
    source: VideoFile, scale: int, target: OutputFormat, codec: str, losses: DroppedFrames, job: VideoJob
) -> Iterator[str]:
    yield from describe_output_format(source, scale, target, codec)
    if job.damaged_segments:
        yield f"{job.damaged_segments} segments of the stopped run were damaged and were made again"
    if losses.adjusted_timestamps:
        yield f"{losses.adjusted_timestamps} timestamps were absent or not later than the one before, and were set after it"


def _describe_fields(source: VideoFile, found: DroppedFrames, options: InputOptions) -> Iterator[str]:
    """Says what became of interlaced frames, and of film frames that are shown for two and three fields in turns."""
    if options.deinterlace and not source.is_interlaced:
        yield "not marked as interlaced: all frames were deinterlaced, the top field first"
    elif options.deinterlace:
        yield f"{found.interlaced} interlaced frames were deinterlaced, each to one frame"
    elif found.interlaced:
        yield (
            f"{found.interlaced} frames are interlaced: both fields were processed together, and written as progressive; "
            "--deinterlace makes whole frames of them first"
        )
    if found.pulldown:
        yield f"soft telecine: {found.pulldown} frames are marked to be shown for three fields; each was written once, at its time"


def _describe_losses(source_path: Path, output_path: Path, frames: int, losses: DroppedFrames) -> str:
    lost = f"about {losses.frames} frames are lost" if losses.frames != 1 else "about 1 frame is lost"
    if not losses.frames:
        lost = "an unknown number is lost"
    return f"{escape_name(source_path)} is damaged or cut off: {frames} frames were done and are in {escape_name(output_path)}, {lost}."

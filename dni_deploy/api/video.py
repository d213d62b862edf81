"""Processes a video, with alpha over time or for each pixel; a run that was stopped resumes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

import av

from dni_deploy._version import __version__
from dni_deploy.alpha import source as alpha_input
from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.alpha.control_source import ControlSource, open_control_sources
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import (
    InputError,
    PartialResultError,
    UsageError,
    escape_name,
)
from dni_deploy.imaging.frames import AnyFrame, check_signature
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.session.tiles import render_tiled
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from dni_deploy.spatial.video import SpatialVideoSettings
from dni_deploy.utils.atomic_write import write_file_atomically
from dni_deploy.utils.progress import OptionalProgress, report_progress
from dni_deploy.video_io.encoder import EncoderOptions, OutputFormat, choose_output_format, keeps_hdr
from dni_deploy.video_io.image_sequence import (
    check_no_frame_exists,
    find_frame_encoder,
    fingerprint_frames,
    is_image_sequence,
    names_frames,
    write_frames,
)
from dni_deploy.video_io.mux import FRAMES_MUXER, find_muxer, mux_segments, plan_output
from dni_deploy.video_io.output_notes import describe_output_format
from dni_deploy.video_io.pipeline import make_completed_future
from dni_deploy.video_io.reader import DroppedFrames, SizeChangeError
from dni_deploy.video_io.resume import VideoJob, fingerprint_file, has_started_log, open_job, remove_published_job
from dni_deploy.video_io.transcode import FrameFunction, TranscodeSettings, transcode_segments
from dni_deploy.video_io.video_file import InputOptions, VideoFile, open_video_file

LIVE_ALPHA_DIGEST = "live"

LOST_HDR_NOTE = "mastering display and light levels (HDR10) are lost: --codec libx265 and .mp4, .mov or .mkv keep them"


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
    if alpha is None and alpha_map is None:
        raise UsageError("Which alpha? Give one (--alpha), or a map of alphas (--alpha-map). Nothing was written.")
    map_options = AlphaMapOptions(alpha_map) if isinstance(alpha_map, str | os.PathLike) else alpha_map
    video_path, output_path = Path(source_path), Path(output)
    log_path = None if alpha_log is None else Path(alpha_log)
    _check_outputs([video_path] if map_options is None else [video_path, Path(map_options.mask)], output_path, log_path, force)
    muxer = find_muxer(output_path)
    encoder, options = encoder or EncoderOptions(), options or SessionOptions()
    if muxer == FRAMES_MUXER:
        encoder = encoder.with_default_codec(find_frame_encoder(output_path))
    else:
        encoder = encoder.for_muxer(muxer)
    input_options = input_options or InputOptions()
    source = open_video_file(video_path, input_options)
    bundle = Bundle.ensure_open(bundle_path)
    check_signature(bundle.signature)
    scale = bundle.signature.scale

    def as_alpha_source(given: Any) -> AlphaSource:
        return alpha_input.as_alpha_source(given, bundle.members, extrapolate=options.extrapolate, fps=float(source.frame_rate))

    map_settings = (
        None
        if map_options is None
        else SpatialVideoSettings.from_options(map_options, alpha, bundle.members, as_alpha_source, source, scale)
    )
    alphas = as_alpha_source(alpha) if map_settings is None else map_settings.black_source
    controls = open_control_sources(options.controls, bundle.signature.controls, fps=float(source.frame_rate))
    session_options = replace(options, controls={name: control.at(0.0, 0) for name, control in controls.items()})
    output_format = choose_output_format(encoder, source, scale, muxer)
    if source.copied_streams:
        report_progress(progress, 0, source.frame_count, "checking the other streams")
    source = source.with_time_jumps()
    plan = plan_output(output_path, source, encoder, output_format)
    settings = TranscodeSettings(encoder, output_format, plan.has_global_header, input_options)
    with open_session(bundle, session_options, alpha=alphas.at(0.0, 0)) as session:
        description: dict[str, Any] = {
            "film": fingerprint_frames(video_path) if is_image_sequence(video_path) else fingerprint_file(video_path),
            "bundle": bundle.digest,
            "alpha": _digest_alpha_source(alphas),
            "engine": [session.engine.name, options.precision],
            "tiles": [tile, overlap],
            "encoder": {**encoder.to_json(), "pixel format": output_format.pixel_format},
            "hardware decoder": input_options.hwaccel,
            "segment": encoder.segment_frames,
            "container": plan.muxer,
            "video stream": source.stream_index,
            "deinterlace": input_options.deinterlace,
            "part": str(source.part),
            "versions": {"dni-deploy": __version__, "PyAV": av.__version__},
        }
        if controls:
            description["controls"] = {name: control.to_json() for name, control in sorted(controls.items())}
        if session.rules is not None:
            description["rules"] = [rule.to_json() for rule in session.rules.rules]
        live = _digest_alpha_source(alphas) == LIVE_ALPHA_DIGEST
        if map_settings is not None:
            live = live or _digest_alpha_source(map_settings.white_source) == LIVE_ALPHA_DIGEST
            description["alpha map"] = {**map_settings.to_json(), "white": _digest_alpha_source(map_settings.white_source)}
        started = time.perf_counter()
        process_frame = (
            make_frame_function(session, alphas, tile, overlap)
            if map_settings is None
            else map_settings.make_frame_function(session, tile, overlap)
        )
        process_frame = move_controls(process_frame, session, controls)
        with open_job(output_path, description, segment_frames=encoder.segment_frames, fresh=fresh or live) as job:
            with _remove_useless_job(job):
                dropped_frames = transcode_segments(source, job, process_frame, settings, scale, progress)
                if not job.segments:
                    raise InputError(f"{escape_name(video_path)} holds no frame that can be decoded. Nothing was written.")
            job.check_has_no_gap()
            report_progress(progress, job.frames, job.frames, "joining the segments")
            if log_path is not None:
                logged = has_started_log(output_path)
                job.mark_log_started()
                _write_log(log_path, job, bundle, source.first_number, force or logged)
            if plan.muxer == FRAMES_MUXER:
                job.mark_log_started()  # so that the same command may go on where it is stopped between two pictures
                write_frames(output_path, job.segments, source.first_number)
            else:
                with write_file_atomically(output_path, force=force) as temporary:
                    mux_segments(temporary, plan, job.segments, source, encoder, output_format)
                    job.mark_published(temporary)
            job.remove()
        report = VideoReport(
            source=os.fspath(video_path),
            output=os.fspath(output_path),
            frames=job.frames,
            resumed_frames=job.resumed_frames,
            width=output_format.width,
            height=output_format.height,
            engine=session.engine.name,
            engine_reason=session.engine_reason,
            codec=encoder.codec,
            seconds=time.perf_counter() - started,
            notes=(
                *source.notes,
                *plan.notes,
                *_describe_adjustments(source, scale, output_format, encoder.codec, dropped_frames, job),
                *([] if keeps_hdr(encoder, output_format, muxer) else [LOST_HDR_NOTE]),
                *_describe_fields(source, dropped_frames, input_options),
            ),
        )
    if dropped_frames:
        raise PartialResultError(_describe_losses(video_path, output_path, report.frames, dropped_frames))
    return report


def make_frame_function(
    session: Session, alphas: AlphaSource, tile: int | None = None, overlap: int | None = None
) -> FrameFunction:
    """Makes the function that sets each frame's alpha and begins to render the frame, in tiles if `tile` is given."""

    def process_frame(frame: AnyFrame, seconds: float, number: int) -> Future[RenderedFrame]:
        session.alpha = alphas.at(seconds, number)
        if tile is None:
            return session.submit(frame)
        return make_completed_future(render_tiled(session, frame, tile, overlap))

    return process_frame


def move_controls(process_frame: FrameFunction, session: Session, controls: Mapping[str, ControlSource]) -> FrameFunction:
    """Makes a function that sets the controls that move, and then does what `process_frame` does."""
    moving = {name: control for name, control in controls.items() if not control.is_constant}
    if not moving:
        return process_frame

    def process_with_controls(frame: AnyFrame, seconds: float, number: int) -> Future[RenderedFrame]:
        session.controls = {name: control.at(seconds, number) for name, control in moving.items()}
        return process_frame(frame, seconds, number)

    return process_with_controls


def _check_outputs(input_paths: Sequence[Path], output_path: Path, log_path: Path | None, force: bool) -> None:
    if not output_path.parent.is_dir():
        raise UsageError(f"The folder {escape_name(output_path.parent)} does not exist. Nothing was written.")
    if names_frames(output_path) and not force and not has_started_log(output_path):
        check_no_frame_exists(output_path)
    for path in (output_path, log_path):
        if path is None:
            continue
        if names_frames(path) and os.path.realpath(path.parent) in {os.path.realpath(film) for film in input_paths}:
            raise UsageError(f"{escape_name(path.parent)} is the input, too; choose another folder. Nothing was written.")
        if os.path.realpath(path) in {os.path.realpath(film) for film in input_paths}:
            raise UsageError(f"{escape_name(path)} is the input, too; choose another output. Nothing was written.")
        if path.is_dir():
            raise UsageError(f"{escape_name(path)} is a folder; name a file. Nothing was written.")
        if os.path.lexists(path) and not force and not (path is log_path and has_started_log(output_path)):
            remove_published_job(output_path)
            raise UsageError(f"{escape_name(path)} exists; give --force to replace it. Nothing was written.")
    if log_path is not None and os.path.realpath(log_path) == os.path.realpath(output_path):
        raise UsageError(f"{escape_name(log_path)} cannot be the film and its alpha log. Nothing was written.")


def _write_log(path: Path, job: VideoJob, bundle: Bundle, first_number: int, force: bool) -> None:
    with write_file_atomically(path, force=force) as temporary, AlphaLog(temporary, bundle.members, bundle.digest) as log:
        for segment in job.segments:
            for number, row in enumerate(segment.read_footer().alphas, first_number + segment.first_frame):
                log.write(number, row.seconds, row.generation, Coefficients(bundle.members, row.coefficients))


def _digest_alpha_source(alphas: AlphaSource) -> str:
    """Digests an alpha over time for the identity of a video job.

    Args:
        alphas: The source. Its `kind` is a fixed string, so that a stopped job goes on after the class was renamed.

    Returns:
        SHA-256 in hex, or LIVE_ALPHA_DIGEST for a source that is steered from outside and never the same again.
    """
    to_json = getattr(alphas, "to_json", None)
    if to_json is None:
        return LIVE_ALPHA_DIGEST
    kind = getattr(alphas, "kind", type(alphas).__name__)  # a source from outside may have none
    return sha256(dumps([kind, to_json()], sort_keys=True).encode()).hexdigest()


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

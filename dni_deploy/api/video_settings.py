"""What a video job is, before anything is rendered: all of its settings, checked, and the identity by which it is resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

import av

from dni_deploy._version import __version__
from dni_deploy.alpha import source as alpha_input
from dni_deploy.alpha.control_source import ControlSource, open_control_sources
from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.imaging.frames import AnyFrame, check_signature
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session
from dni_deploy.session.tiles import render_tiled
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from dni_deploy.spatial.video import SpatialVideoSettings
from dni_deploy.storage.staging import stage_output, stage_source
from dni_deploy.utils.address import as_local_path, is_remote
from dni_deploy.utils.progress import OptionalProgress, report_progress
from dni_deploy.video_io.encoder import EncoderOptions, choose_output_format
from dni_deploy.video_io.frame_index import FrameIndex
from dni_deploy.video_io.image_sequence import (
    check_no_frame_exists,
    find_frame_encoder,
    fingerprint_frames,
    is_image_sequence,
    names_frames,
)
from dni_deploy.video_io.mux import FRAMES_MUXER, OutputPlan, find_muxer, plan_output
from dni_deploy.video_io.pipeline import make_completed_future
from dni_deploy.video_io.resume import fingerprint_file, has_started_log, remove_published_job
from dni_deploy.video_io.transcode import FrameFunction, TranscodeSettings
from dni_deploy.video_io.video_file import InputOptions, VideoFile, open_video_file

LIVE_ALPHA_DIGEST = "live"

SESSION_KEYS = ("engine", "plan", "rules")
"""What of the identity of a job is known only when its network is open."""


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """What `video` was asked for; its arguments, by their names there."""

    bundle_path: Bundle | str | os.PathLike[str]
    source_path: str | os.PathLike[str]
    output: str | os.PathLike[str]
    alpha: Any = None
    alpha_map: AlphaMapOptions | str | os.PathLike[str] | None = None
    options: SessionOptions | None = None
    tile: int | None = None
    overlap: int | None = None
    encoder: EncoderOptions | None = None
    input_options: InputOptions | None = None
    alpha_log: str | os.PathLike[str] | None = None
    force: bool = False


@dataclass(frozen=True)
class VideoSettings:
    """A request that was checked, with everything that can be known without opening the network.

    Attributes:
        request: The request.
        bundle: The bundle.
        source: The video.
        output_path: The video to write.
        log_path: The alpha log to write, or None.
        alphas: Alpha over time; with a map, that of black.
        map_settings: How frames get their maps, or None.
        controls: The values of the network's controls over time, by name.
        session_options: Options of the session.
        plan: How the output is put together.
        transcode: How the frames are made.
        description: The identity of the job, without SESSION_KEYS.
    """

    request: VideoRequest
    bundle: Bundle
    source: VideoFile
    output_path: Path
    log_path: Path | None
    alphas: AlphaSource
    map_settings: SpatialVideoSettings | None
    controls: Mapping[str, ControlSource]
    session_options: SessionOptions
    plan: OutputPlan
    transcode: TranscodeSettings
    description: dict[str, Any]

    @property
    def source_name(self) -> str:
        """The video's path, or its address."""
        return os.fspath(self.request.source_path if is_remote(self.request.source_path) else self.source.path)

    @property
    def output_name(self) -> str:
        """The path of the video to write, or its address."""
        return os.fspath(self.request.output if is_remote(self.request.output) else self.output_path)

    @property
    def scale(self) -> int:
        """The output is that many times as wide and high."""
        return self.bundle.signature.scale

    @property
    def is_live(self) -> bool:
        """Whether alpha is set from outside, so that no frame can be made again."""
        sources = [self.alphas] if self.map_settings is None else [self.alphas, self.map_settings.white_source]
        return LIVE_ALPHA_DIGEST in map(digest_alpha_source, sources)

    def describe_session(self, session: Session) -> dict[str, Any]:
        """Returns the SESSION_KEYS of the identity of the job."""
        engine: dict[str, Any] = {"engine": [session.engine.name, self.session_options.precision]}
        if session.plan_digest:
            engine["plan"] = session.plan_digest
        rules = session.rules
        return engine if rules is None else {**engine, "rules": [rule.to_json() for rule in rules.rules]}

    def make_frame_function(self, session: Session) -> FrameFunction:
        """Makes the function that renders the frames, in ascending order."""
        tile, overlap = self.request.tile, self.request.overlap
        process_frame = (
            make_frame_function(session, self.alphas, tile, overlap)
            if self.map_settings is None
            else self.map_settings.make_frame_function(session, tile, overlap)
        )
        return move_controls(process_frame, session, self.controls)

    def list_generations(self, index: FrameIndex) -> list[int]:
        """Lists the generation of each frame as one run over all of them counts: changes of the weights so far, from 1."""
        moving = () if self.map_settings is not None else [one for one in self.controls.values() if not one.is_constant]
        generations: list[int] = []
        last: Any = None
        for number in range(index.frames):
            moment = (self.source.find_seconds(index.get_time(number)), self.source.first_number + number)
            state = (self.alphas.at(*moment).values, *(control.at(*moment) for control in moving))
            generations.append(generations[-1] + (state != last) if generations else 1)
            last = state
        return generations


def check_request(request: VideoRequest, progress: OptionalProgress = None) -> VideoSettings:
    """Checks a request and opens all of its files, but not the network. Takes and raises what `video` does."""
    alpha, alpha_map = request.alpha, request.alpha_map
    if alpha is None and alpha_map is None:
        raise UsageError("Which alpha? Give one (--alpha), or a map of alphas (--alpha-map). Nothing was written.")
    map_options = AlphaMapOptions(alpha_map) if isinstance(alpha_map, str | os.PathLike) else alpha_map
    output_path = stage_output(request.output, force=request.force)
    if is_remote(request.output) and names_frames(output_path):
        raise UsageError(
            f"{escape_name(request.output)} names many pictures; those of a video go to a folder of this machine. Nothing was written."
        )
    video_path = stage_source(request.source_path)
    log_path = None if request.alpha_log is None else as_local_path(request.alpha_log, "an alpha log")
    input_paths = [video_path] if map_options is None else [video_path, as_local_path(map_options.mask, "an alpha map")]
    _check_outputs(input_paths, output_path, log_path, request.force, is_staged=is_remote(request.output))
    muxer = find_muxer(output_path)
    encoder, options = request.encoder or EncoderOptions(), request.options or SessionOptions()
    if muxer == FRAMES_MUXER:
        encoder = encoder.with_default_codec(find_frame_encoder(output_path))
    else:
        encoder = encoder.for_muxer(muxer)
    input_options = request.input_options or InputOptions()
    source = open_video_file(video_path, input_options)
    bundle = Bundle.ensure_open(request.bundle_path)
    check_signature(bundle.signature)

    def as_alpha_source(given: Any) -> AlphaSource:
        return alpha_input.as_alpha_source(given, bundle.members, extrapolate=options.extrapolate, fps=float(source.frame_rate))

    map_settings = (
        None
        if map_options is None
        else SpatialVideoSettings.from_options(
            map_options, alpha, bundle.members, as_alpha_source, source, bundle.signature.scale
        )
    )
    alphas = as_alpha_source(alpha) if map_settings is None else map_settings.black_source
    controls = open_control_sources(options.controls, bundle.signature.controls, fps=float(source.frame_rate))
    output_format = choose_output_format(encoder, source, bundle.signature.scale, muxer)
    if source.copied_streams:
        report_progress(progress, 0, source.frame_count, "checking the other streams")
    source = source.with_time_jumps()
    plan = plan_output(output_path, source, encoder, output_format)
    description: dict[str, Any] = {
        "film": fingerprint_frames(video_path) if is_image_sequence(video_path) else fingerprint_file(video_path),
        "bundle": bundle.digest,
        "alpha": digest_alpha_source(alphas),
        "tiles": [request.tile, request.overlap],
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
    if map_settings is not None:
        description["alpha map"] = {**map_settings.to_json(), "white": digest_alpha_source(map_settings.white_source)}
    return VideoSettings(
        request,
        bundle,
        source,
        output_path,
        log_path,
        alphas,
        map_settings,
        controls,
        replace(options, controls={name: control.at(0.0, 0) for name, control in controls.items()}),
        plan,
        TranscodeSettings(encoder, output_format, plan.has_global_header, input_options),
        description,
    )


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


def _check_outputs(
    input_paths: Sequence[Path], output_path: Path, log_path: Path | None, force: bool, *, is_staged: bool = False
) -> None:
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
        may_exist = force or (is_staged if path is output_path else has_started_log(output_path))
        if os.path.lexists(path) and not may_exist:
            remove_published_job(output_path)
            raise UsageError(f"{escape_name(path)} exists; give --force to replace it. Nothing was written.")
    if log_path is not None and os.path.realpath(log_path) == os.path.realpath(output_path):
        raise UsageError(f"{escape_name(log_path)} cannot be the film and its alpha log. Nothing was written.")


def digest_alpha_source(alphas: AlphaSource) -> str:
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

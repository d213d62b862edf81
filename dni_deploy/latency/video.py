"""What each frame of a video costs, stage by stage, with a change of alpha on every frame and without."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import InputError, UsageError, escape_name
from dni_deploy.imaging.frames import check_signature
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.latency.timing import compute_median_ratio
from dni_deploy.session.session import Session, open_session
from dni_deploy.utils.progress import OptionalProgress, report_progress
from dni_deploy.video_io.color import ColorConverter
from dni_deploy.video_io.encoder import Encoder, EncoderOptions, OutputFormat, pad_frame
from dni_deploy.video_io.pixel_formats import DEFAULT_FORMAT, choose_alignment
from dni_deploy.video_io.reader import DecodedFrame, VideoReader
from dni_deploy.video_io.video_file import VideoFile, open_video_file
from engines.frame_conversion import to_network
from engines.interface import FRAMES_IN_FLIGHT

WARM_UP_FRAMES = 3
"""Frames at the beginning that are not counted: the engine and the encoder reserve memory."""

MAX_STREAM_FRAMES = 40
"""Frames of the run with several under way; a second or two of most networks."""

STAGES = (
    "decode", "colors, in decode", "blend and refit", "network alone", "frame, changed", "frame, steady", "encode",
    "colors, in encode", "end to end",
)  # fmt: skip

MEAN_EVENT_INTERVAL_S = 0.25
"""Seconds between two moves of the slider, on average, where its delay is measured."""


@dataclass(frozen=True)
class StageTiming:
    """What one stage takes per frame, in milliseconds.

    Attributes:
        name: Name of the stage.
        p50: Half of the frames took at most this long.
        p95: 95 of 100 frames took at most this long.
        p99: 99 of 100 frames took at most this long.
    """

    name: str
    p50: float
    p95: float
    p99: float

    @classmethod
    def from_seconds(cls, name: str, seconds: list[float]) -> StageTiming:
        """Summarizes the times of a stage, one per frame."""
        return cls(name, *(float(value) * 1e3 for value in np.percentile(seconds, (50, 95, 99))))


@dataclass(frozen=True)
class VideoBenchReport:
    """What the frames of a video cost.

    Attributes:
        bundle: Name of the bundle's folder.
        video: Name of the video file.
        size: Width and height of its frames, in pixels.
        output_size: Width and height of the network's frames, in pixels.
        frames: Number of frames that were timed.
        engine: Name of the engine.
        threads: Threads of the engine; 0 for its own choice.
        stages: The stages of a frame; what is a part of another stage says so in its name.
        changed_over_steady: Time of a frame with a change of alpha over the time of the same frame without, as a median.
        stream_fps: Frames per second of the session where several frames are under way at once, without decoding and encoding.
        frames_in_flight: Number of frames under way then, on average over the time; at most FRAMES_IN_FLIGHT.
    """

    bundle: str
    video: str
    size: tuple[int, int]
    output_size: tuple[int, int]
    frames: int
    engine: str
    threads: int
    stages: tuple[StageTiming, ...]
    changed_over_steady: float
    stream_fps: float
    frames_in_flight: float

    def to_json(self) -> dict[str, Any]:
        """Describes the report under fixed keys."""
        return asdict(self)


def bench_video(
    bundle_path: str | os.PathLike[str],
    video_path: str | os.PathLike[str],
    *,
    frames: int = 200,
    threads: int = 0,
    seed: int = 0,
    progress: OptionalProgress = None,
) -> VideoBenchReport:
    """Runs a video's first frames one after the other, nothing overlapping, and times every stage of each.

    Every frame goes through the network twice, once after a change of alpha and once without, in turns, so that a machine that
    is slow for a while is slow for both. Blend and refit are one figure: on the CPU the blend writes where the engine reads.
    The slider's delay is from a move, made at a random moment by another thread while frames run back to back, to the end of
    the first frame that has it.

    Args:
        bundle_path: Folder of the bundle.
        video_path: The video file.
        frames: Number of frames to time, at least 2.
        threads: Threads of the engine; 0 for its own choice.
        seed: Seed of the alphas and of the slider's moves.
        progress: Called with each frame.

    Raises:
        UsageError: Fewer than 2 frames.
        InputError: The video cannot be read or is too short.
    """
    if frames < 2:
        raise UsageError(f"A benchmark of a video needs at least 2 frames; got {frames}.")
    bundle = Bundle.open(bundle_path)
    check_signature(bundle.signature)
    source = open_video_file(Path(video_path))
    output_format = OutputFormat.from_video_file(source, bundle.signature.scale)
    encoder = Encoder(EncoderOptions(), output_format, global_header=True)
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {name: [] for name in STAGES}
    colors = _ColorTimer(source, output_format)
    last: DecodedFrame | None = None
    with open_session(bundle, threads=threads) as session:
        decoded_frames = islice(iter(VideoReader(source)), frames + WARM_UP_FRAMES)
        number, started = 0, time.perf_counter()
        for last in decoded_frames:
            seconds = {"decode": time.perf_counter() - started}
            report_progress(progress, number, frames + WARM_UP_FRAMES, "timing frames")
            alpha = _draw_coefficients(rng, session.members)
            seconds |= _time_frame(session, encoder, colors, last, alpha, number % 2 == 1)
            if number >= WARM_UP_FRAMES:
                seconds["end to end"] = seconds["decode"] + seconds["frame, changed"] + seconds["encode"]
                for name, value in seconds.items():
                    times[name].append(value)
            number, started = number + 1, time.perf_counter()
        if last is None or len(times["decode"]) < 2:
            raise InputError(f"{escape_name(video_path)} has fewer than {WARM_UP_FRAMES + 2} frames, which is too few to time.")
        stream_fps, frames_in_flight = _measure_stream(session, last, min(frames, MAX_STREAM_FRAMES))
        times["slider to frame"] = _measure_slider_delays(session, last, rng, min(frames, 40), progress)
        engine = session.engine.name
    return VideoBenchReport(
        bundle=Path(bundle_path).name,
        video=Path(video_path).name,
        size=(source.width, source.height),
        output_size=(output_format.width, output_format.height),
        frames=len(times["decode"]),
        engine=engine,
        threads=threads,
        stages=tuple(StageTiming.from_seconds(name, seconds) for name, seconds in times.items()),
        changed_over_steady=compute_median_ratio(times["frame, changed"], times["frame, steady"]),
        stream_fps=stream_fps,
        frames_in_flight=frames_in_flight,
    )


class _ColorTimer:
    """Times the two conversions of colors that are parts of decoding and of encoding."""

    def __init__(self, source: VideoFile, output_format: OutputFormat) -> None:
        self._source, self._planes = (
            ColorConverter(source.color),
            ColorConverter(source.color),
        )  # each keeps one context of swscale
        self._target = ColorConverter(output_format.color, output_format.pixel_format)
        self._alignment = choose_alignment(output_format.pixel_format)

    def time_frame(self, rgb: NDArray[Any], output: NDArray[Any]) -> dict[str, float]:
        """Returns seconds by stage for a decoded frame and the network's."""
        planes = self._planes.from_rgb(pad_frame(rgb, choose_alignment(DEFAULT_FORMAT)))
        started = time.perf_counter()
        self._source.to_rgb(planes)
        converted = time.perf_counter()
        self._target.from_rgb(pad_frame(output, self._alignment))
        return {"colors, in decode": converted - started, "colors, in encode": time.perf_counter() - converted}


def _time_frame(
    session: Session, encoder: Encoder, colors: _ColorTimer, frame: DecodedFrame, alpha: tuple[float, ...], changed_first: bool
) -> dict[str, float]:
    """Times a frame with a change of alpha and without, its parts, and its encoding: seconds by stage."""
    seconds = {}
    order = ("frame, changed", "frame, steady") if changed_first else ("frame, steady", "frame, changed")
    for name in order:
        started = time.perf_counter()
        if name == "frame, changed":
            session.alpha = alpha
        output = session.render(frame.rgb).output
        seconds[name] = time.perf_counter() - started
    seconds["blend and refit"] = session.change_seconds
    x = to_network(frame.rgb, session.signature)
    started = time.perf_counter()
    session.infer(x)
    seconds["network alone"] = time.perf_counter() - started
    seconds |= colors.time_frame(frame.rgb, output)
    started = time.perf_counter()
    list(encoder.encode(output, frame.pts))
    seconds["encode"] = time.perf_counter() - started
    return seconds


def _measure_stream(session: Session, frame: DecodedFrame, count: int) -> tuple[float, float]:
    """Frames per second with several under way, and how many are under way on average: their times over the time of all."""
    ended: list[float] = []
    started: list[float] = []
    pending: deque[Future[RenderedFrame]] = deque()
    for _ in range(count):
        future = session.submit(frame.rgb)
        started.append(time.perf_counter())
        future.add_done_callback(lambda _: ended.append(time.perf_counter()))
        pending.append(future)
        if len(pending) == FRAMES_IN_FLIGHT:
            pending.popleft().result()
    for future in pending:
        future.result()
    while len(ended) < count:  # a result may be there a moment before its callback has run
        time.sleep(1e-4)
    wall = max(ended) - min(started)
    return count / wall, (sum(ended) - sum(started)) / wall


def _draw_coefficients(rng: np.random.Generator, members: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(rng.dirichlet(np.ones(len(members))).tolist())


def _measure_slider_delays(
    session: Session, frame: DecodedFrame, rng: np.random.Generator, event_count: int, progress: OptionalProgress
) -> list[float]:
    """Measures the seconds from each move of the slider to the end of the first frame that has it."""
    shared_alpha = SharedAlpha(session.members, session.alpha)
    alphas = [_draw_coefficients(rng, session.members) for _ in range(event_count)]
    pauses = rng.uniform(0.5 * MEAN_EVENT_INTERVAL_S, 1.5 * MEAN_EVENT_INTERVAL_S, event_count)
    move_times: list[float] = []
    stopped = threading.Event()

    def move_slider() -> None:
        for pause, alpha in zip(pauses, alphas, strict=True):
            if stopped.wait(pause):
                return
            move_times.append(time.perf_counter())
            shared_alpha.set_alpha(alpha)

    mover = threading.Thread(target=move_slider, name="dni-slider", daemon=True)
    mover.start()
    delays: list[float] = []
    try:
        while mover.is_alive() or len(delays) < len(move_times):
            session.alpha = shared_alpha.at(0.0, 0)
            rendered_with = session.render(frame.rgb).coefficients.values
            now = time.perf_counter()
            moves = reversed(range(len(delays), len(move_times)))
            newest = next((move for move in moves if alphas[move] == rendered_with), None)
            if newest is not None:  # moves that a slow frame skipped were shown by this one as well
                delays += [now - moment for moment in move_times[len(delays) : newest + 1]]
                report_progress(progress, len(delays), event_count, "moving the slider")
    finally:
        stopped.set()
        mover.join()
    return delays

"""Video: what each frame of a film costs, stage by stage, with a change of alpha on every frame and without."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import InputError, UsageError, escape_name
from dni_deploy.imaging.frames import check_signature
from dni_deploy.latency.timing import compute_median_ratio
from dni_deploy.session.session import Session, open_session
from dni_deploy.utils.progress import OptionalProgress, report_progress
from dni_deploy.video_io.encoder import Encoder, EncoderOptions, OutputFormat
from dni_deploy.video_io.reader import DecodedFrame, VideoReader
from dni_deploy.video_io.video_file import open_video_file

WARM_UP_FRAMES = 3
"""Frames at the beginning that are not counted: the engine and the encoder reserve memory."""

MEAN_EVENT_INTERVAL_S = 0.25
"""Seconds between two moves of the slider, on average, where its delay is measured."""


@dataclass(frozen=True)
class StageTiming:
    """Milliseconds per frame: half of the frames took at most p50, 95 of 100 at most p95, 99 of 100 at most p99."""

    name: str
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, name: str, seconds: list[float]) -> StageTiming:
        return cls(name, *(float(value) * 1e3 for value in np.percentile(seconds, (50, 95, 99))))


@dataclass(frozen=True)
class VideoBenchReport:
    """stages, and of the frames: what they took with a change over what they took without, pair by pair, as a median."""

    bundle: str
    video: str
    size: tuple[int, int]
    output_size: tuple[int, int]
    frames: int
    engine: str
    threads: int
    stages: tuple[StageTiming, ...]
    changed_over_steady: float

    def to_json(self) -> dict[str, Any]:
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
    """Run the film's first frames one after the other, nothing overlapping, and time every stage of each.

    Every frame goes through the network twice, once after a change of alpha and once without, in turns, so that a machine
    that is slow for a while is slow for both. Blend and refit are one figure: on the CPU the blend writes where the engine
    reads. The slider's delay is from a move, made at a random moment by another thread while frames run one right behind
    the other, to the end of the first frame that has it.
    Raises UsageError, InputError, and what open_session raises.
    """
    if frames < 2:
        raise UsageError(f"A benchmark of a film needs at least 2 frames; got {frames}.")
    bundle = Bundle.open(bundle_path)
    check_signature(bundle.signature)
    source = open_video_file(Path(video_path))
    target = OutputFormat.from_video_file(source, bundle.signature.scale)
    encoder = Encoder(EncoderOptions(), target, global_header=True)
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {
        name: [] for name in ("decode", "blend and refit", "frame, changed", "frame, steady", "encode", "end to end")
    }
    last: DecodedFrame | None = None
    with open_session(bundle, threads=threads) as session:
        pictures = iter(islice(iter(VideoReader(source)), frames + WARM_UP_FRAMES))
        number = 0
        while True:
            began = time.perf_counter()
            picture = next(pictures, None)
            if picture is None:
                break
            decoded = time.perf_counter() - began
            report_progress(progress, number, frames + WARM_UP_FRAMES, "timing frames")
            alpha = _draw_coefficients(rng, session.members)
            first = "frame, changed" if number % 2 else "frame, steady"
            taken = {}
            for name in (first, *({"frame, changed", "frame, steady"} - {first})):
                before = time.perf_counter()
                if name == "frame, changed":
                    session.alpha = alpha
                output = session.render(picture.rgb).output
                taken[name] = time.perf_counter() - before
            before = time.perf_counter()
            list(encoder.encode(output, picture.pts))
            encoded = time.perf_counter() - before
            if number >= WARM_UP_FRAMES:
                taken |= {"decode": decoded, "blend and refit": session.change_seconds, "encode": encoded}
                taken["end to end"] = decoded + taken["frame, changed"] + encoded
                for name, seconds in taken.items():
                    times[name].append(seconds)
            last, number = picture, number + 1
        if last is None or len(times["decode"]) < 2:
            raise InputError(f"{escape_name(video_path)} has fewer than {WARM_UP_FRAMES + 2} frames, which is too few to time.")
        times["slider to picture"] = _measure_slider_delays(session, last, rng, min(frames, 40), progress)
        engine = session.engine.name
    return VideoBenchReport(
        bundle=Path(bundle_path).name,
        video=Path(video_path).name,
        size=(source.width, source.height),
        output_size=(target.width, target.height),
        frames=len(times["decode"]),
        engine=engine,
        threads=threads,
        stages=tuple(StageTiming.of(name, seconds) for name, seconds in times.items()),
        changed_over_steady=compute_median_ratio(times["frame, changed"], times["frame, steady"]),
    )


def _draw_coefficients(rng: np.random.Generator, members: tuple[str, ...]) -> Coefficients:
    return Coefficients.parse(rng.dirichlet(np.ones(len(members))).tolist(), members)


def _measure_slider_delays(
    session: Session, frame: DecodedFrame, rng: np.random.Generator, event_count: int, progress: OptionalProgress
) -> list[float]:
    """Seconds from each move of the slider to the end of the first frame that was made with it."""
    cell = SharedAlpha(session.members, session.alpha)
    alphas = [_draw_coefficients(rng, session.members) for _ in range(event_count)]
    pauses = rng.uniform(0.5 * MEAN_EVENT_INTERVAL_S, 1.5 * MEAN_EVENT_INTERVAL_S, event_count)
    moved: list[float] = []
    over = threading.Event()

    def move_slider() -> None:
        for pause, alpha in zip(pauses, alphas, strict=True):
            if over.wait(pause):
                return
            moved.append(time.perf_counter())
            cell.set_alpha(alpha)

    hand = threading.Thread(target=move_slider, name="dni-slider", daemon=True)
    hand.start()
    delays: list[float] = []
    try:
        while hand.is_alive() or len(delays) < len(moved):
            session.alpha = cell.at(0.0, 0)
            shown_with = session.render(frame.rgb).coefficients
            now = time.perf_counter()
            seen = next((place for place in reversed(range(len(delays), len(moved))) if alphas[place] == shown_with), None)
            if seen is not None:  # moves that a slow frame skipped were shown by this one as well
                delays += [now - when for when in moved[len(delays) : seen + 1]]
                report_progress(progress, len(delays), event_count, "moving the slider")
    finally:
        over.set()
        hand.join()
    return delays

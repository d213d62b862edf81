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
from dni_deploy.control.shared_alpha import AlphaCell
from dni_deploy.errors import InputError, UsageError, shown
from dni_deploy.imaging.frames import check_signature
from dni_deploy.latency.timing import ratio
from dni_deploy.session.session import Session, open_session
from dni_deploy.utils.progress import MaybeProgress, tell
from dni_deploy.video_io.encoder import Encoder, EncoderSettings, Target
from dni_deploy.video_io.reader import Picture, Reader
from dni_deploy.video_io.video_file import look

WARM_UP = 3
"""Frames at the beginning that are not counted: the engine and the encoder reserve memory."""

EVENTS_EVERY = 0.25
"""Seconds between two moves of the slider, on average, where its delay is measured."""


@dataclass(frozen=True)
class Stage:
    """Milliseconds per frame: half of the frames took at most p50, 95 of 100 at most p95, 99 of 100 at most p99."""

    name: str
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, name: str, seconds: list[float]) -> Stage:
        return cls(name, *(float(value) * 1e3 for value in np.percentile(seconds, (50, 95, 99))))


@dataclass(frozen=True)
class VideoBench:
    """stages, and of the frames: what they took with a change over what they took without, pair by pair, as a median."""

    bundle: str
    film: str
    size: tuple[int, int]
    output_size: tuple[int, int]
    frames: int
    engine: str
    threads: int
    stages: tuple[Stage, ...]
    changed_over_steady: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench_video(
    bundle_path: str | os.PathLike[str],
    film: str | os.PathLike[str],
    *,
    frames: int = 200,
    threads: int = 0,
    seed: int = 0,
    progress: MaybeProgress = None,
) -> VideoBench:
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
    source = look(Path(film))
    target = Target.of(source, bundle.signature.scale)
    encoder = Encoder(EncoderSettings(), target, header=True)
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {
        name: [] for name in ("decode", "blend and refit", "frame, changed", "frame, steady", "encode", "end to end")
    }
    last: Picture | None = None
    with open_session(bundle, threads=threads) as session:
        pictures = iter(islice(iter(Reader(source)), frames + WARM_UP))
        number = 0
        while True:
            began = time.perf_counter()
            picture = next(pictures, None)
            if picture is None:
                break
            decoded = time.perf_counter() - began
            tell(progress, number, frames + WARM_UP, "timing frames")
            alpha = _random(rng, session.members)
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
            if number >= WARM_UP:
                taken |= {"decode": decoded, "blend and refit": session.change_seconds, "encode": encoded}
                taken["end to end"] = decoded + taken["frame, changed"] + encoded
                for name, seconds in taken.items():
                    times[name].append(seconds)
            last, number = picture, number + 1
        if last is None or len(times["decode"]) < 2:
            raise InputError(f"{shown(film)} has fewer than {WARM_UP + 2} frames, which is too few to time.")
        times["slider to picture"] = _delays(session, last, rng, min(frames, 40), progress)
        engine = session.engine.name
    return VideoBench(
        bundle=Path(bundle_path).name,
        film=Path(film).name,
        size=(source.width, source.height),
        output_size=(target.width, target.height),
        frames=len(times["decode"]),
        engine=engine,
        threads=threads,
        stages=tuple(Stage.of(name, seconds) for name, seconds in times.items()),
        changed_over_steady=ratio(times["frame, changed"], times["frame, steady"]),
    )


def _random(rng: np.random.Generator, members: tuple[str, ...]) -> Coefficients:
    return Coefficients.parse(rng.dirichlet(np.ones(len(members))).tolist(), members)


def _delays(session: Session, picture: Picture, rng: np.random.Generator, events: int, progress: MaybeProgress) -> list[float]:
    """Seconds from each move of the slider to the end of the first frame that was made with it."""
    cell = AlphaCell(session.members, session.alpha)
    alphas = [_random(rng, session.members) for _ in range(events)]
    pauses = rng.uniform(0.5 * EVENTS_EVERY, 1.5 * EVENTS_EVERY, events)
    moved: list[float] = []
    over = threading.Event()

    def move() -> None:
        for pause, alpha in zip(pauses, alphas, strict=True):
            if over.wait(pause):
                return
            moved.append(time.perf_counter())
            cell.set(alpha)

    hand = threading.Thread(target=move, name="dni-slider", daemon=True)
    hand.start()
    delays: list[float] = []
    try:
        while hand.is_alive() or len(delays) < len(moved):
            session.alpha = cell.at(0.0, 0)
            shown_with = session.render(picture.rgb).coefficients
            now = time.perf_counter()
            seen = next((place for place in reversed(range(len(delays), len(moved))) if alphas[place] == shown_with), None)
            if seen is not None:  # moves that a slow frame skipped were shown by this one as well
                delays += [now - when for when in moved[len(delays) : seen + 1]]
                tell(progress, len(delays), events, "moving the slider")
    finally:
        over.set()
        hand.join()
    return delays

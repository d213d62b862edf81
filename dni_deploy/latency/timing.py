"""Each engine's alpha change, first frame after it and steady frame, interleaved so that a noisy machine disturbs all alike."""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.latency.modes import BACKEND_MODES
from dni_deploy.utils.hardware import measure_resident_bytes
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.interface import Engine, EngineOptions


@dataclass
class TimingSamples:
    """The times of one engine, in seconds, one entry per round; equal indices of several engines are of the same round.

    Attributes:
        change: Changes of alpha, to their end.
        first: First frames after a change.
        steady: Second frames after a change.
        pixels: Frames from pixels to pixels, converted to the network and back; empty where none was asked for.
        copy: Plain copies of the bytes that a blend writes; empty where there is none to compare.
    """

    change: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    steady: list[float] = field(default_factory=list)
    pixels: list[float] = field(default_factory=list)
    copy: list[float] = field(default_factory=list)


def time_interleaved(
    engines: Mapping[str, Engine],
    copies: Mapping[str, Callable[[], None]],
    x: NDArray[np.float32],
    members: int,
    rounds: int,
    *,
    render_frame: Callable[[Engine], object] | None = None,
    seed: int = 0,
    progress: OptionalProgress = None,
) -> dict[str, TimingSamples]:
    """Runs every engine once per round: a change of alpha, a frame, a second frame, and the plain copy where there is one.

    Each turn begins with a frame that is not counted: worker threads of the engine before spin for some 20 ms after their last
    frame and would slow the first frame of the next one by a third. The order rotates by one each round. The first round is not
    counted. Alpha is another random point inside the simplex in every round, the same for all.

    Args:
        engines: The engines by name.
        copies: The plain copies by name of the engine.
        x: The input, float32 (N, C, H, W).
        members: Number of members.
        rounds: Rounds that count.
        render_frame: Renders the input from pixels to pixels, to be timed, too.
        seed: Seed of the alphas.
        progress: Called with each round.

    Returns:
        The times of each engine, by name.
    """
    rng = np.random.default_rng(seed)
    names = list(engines)
    samples = {name: TimingSamples() for name in names}
    for engine in engines.values():
        engine.refit(0, np.full(members, 1 / members))
    for number in range(rounds + 1):
        report_progress(progress, number, rounds + 1, "timing")
        shares = rng.dirichlet(np.ones(members))
        for name in names[number % len(names) :] + names[: number % len(names)]:
            engine, sample = engines[name], samples[name]
            engine.infer(0, x)
            times = [time.perf_counter()]
            engine.refit(0, shares)
            engine.synchronize(0)
            times.append(time.perf_counter())
            engine.infer(0, x)
            times.append(time.perf_counter())
            engine.infer(0, x)
            times.append(time.perf_counter())
            timed = [sample.change, sample.first, sample.steady]
            if render_frame is not None:
                render_frame(engine)
                times.append(time.perf_counter())
                timed.append(sample.pixels)
            if name in copies:
                copies[name]()
                times.append(time.perf_counter())
                timed.append(sample.copy)
            if number:
                for series, seconds in zip(timed, np.diff(times), strict=True):
                    series.append(float(seconds))
    return samples


def compute_median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Returns the median of the ratios round by round: a machine that is slow for a while is slow for both."""
    return float(np.median(np.divide(numerators, denominators)))


def measure_mode_memory(bundle_path: str, mode: str, shape: tuple[int, ...], threads: int) -> int | None:
    """Measures how resident memory grows, in a process of its own, by opening a mode, one alpha change and two frames.

    The packages that the mode needs are loaded before the first reading.

    Args:
        bundle_path: Folder of the bundle.
        mode: Name of a mode that is not on a GPU.
        shape: Shape of the input, (N, C, H, W).
        threads: Threads of the engine; 0 for its own choice.

    Returns:
        Bytes; None where memory ran out or cannot be measured.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure_memory_growth, bundle_path, mode, shape, threads).result()
        except BrokenProcessPool:  # out of memory
            return None


def _measure_memory_growth(bundle_path: str, name: str, shape: tuple[int, ...], threads: int) -> int | None:
    mode = next(mode for mode in BACKEND_MODES if mode.name == name)
    bundle = Bundle.open(bundle_path)
    import dni_deploy.utils.onnxruntime_library  # noqa: F401

    if mode.module is not None:
        importlib.import_module(mode.module)
    before = measure_resident_bytes()
    engine = mode.open_engine(bundle, EngineOptions(threads=threads, slots=1))
    x = np.zeros(shape, np.float32)
    engine.refit(0, np.full(len(bundle.members), 1 / len(bundle.members)))
    engine.infer(0, x)
    engine.infer(0, x)
    after = measure_resident_bytes()
    return None if before is None or after is None else after - before

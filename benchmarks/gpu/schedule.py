"""Times every mode in turn, round after round, so that changing GPU clocks affect all modes alike.

A turn of one mode, on its stream:

    frames . frame . change . frame . frame       queued at once, dots are marks: behind LEAD_S seconds of frames the GPU does not
                                                  wait for the host to queue the rest
    change                                        behind as many frames, by the host's clock: the call alone, until it returns
    frame . frame . frame                         of slot 0, first undisturbed and then while a thread changes slot 1 again and again
    change, finish                                on an idle GPU, by the host's clock
    frame                                         by the host's clock, up to its end
    frame with a change before it                 likewise; a mode with two slots changes the idle one beside it
    upload, frame, download                       likewise, float32
    frames from pixels to pixels                  likewise, one by one and overlapped: what a Session does
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.clock import Clock
from dni_deploy.signature import Signature
from engines.interface import FRAMES_IN_FLIGHT, DeviceEngine

MIN_ROUNDS, MAX_ROUNDS = 3, 60
"""Number of rounds, warm-up not included."""
MAX_TIME_FACTOR = 4
"""Multiple of the requested seconds after which timing stops even before MIN_ROUNDS."""
LEAD_S, MAX_LEAD_FRAMES = 5e-3, 20
"""Seconds of frames queued before the first mark, and the largest number of them."""
REFIT_CALLS = 4
"""Number of changes per turn whose call is timed."""
NEIGHBOR_FRAMES = 8
"""Number of frames of slot 0 per turn that are timed while slot 1 is changed, and as many undisturbed."""
OVERLAPPED_FRAMES = 12
"""Number of frames that are timed together, several under way at once."""


@dataclass(frozen=True)
class TimedEngine:
    """An engine to be timed.

    Attributes:
        engine: The engine.
        changes: Whether alpha can change.
        async_refit: Whether its idle slot is changed while a frame runs.
    """

    engine: DeviceEngine
    changes: bool = True
    async_refit: bool = False


class PixelFrame(NamedTuple):
    """A frame, uint8 (H, W, 3), and the signature of the network that it is for."""

    frame: NDArray[np.uint8]
    signature: Signature


@dataclass
class GpuTimingSamples:
    """Seconds by the GPU's events, one entry per round; `host_` ones by the host's clock.

    Attributes:
        change: The change alone, behind a frame.
        first: The frame after it.
        steady: A frame behind a frame.
        undisturbed: NEIGHBOR_FRAMES frames of slot 0, one behind the other; empty for a mode of one slot.
        disturbed: As many, while another thread changes slot 1 again and again.
        host_refit: The call of a change alone, until it returns, while the GPU is busy with frames: REFIT_CALLS per round.
        host_change: The call and its end, on an idle GPU.
        host_steady: One frame from the call to its end.
        host_changed: The same with a change before it.
        host_frame: The upload of the input, a frame, the download of the output, float32 both.
        host_pixels: A frame from pixels to pixels, uint8 both; empty for a network that takes no frames.
        host_overlapped: The same for each of several frames, FRAMES_IN_FLIGHT under way at once.
    """

    change: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    steady: list[float] = field(default_factory=list)
    undisturbed: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    host_refit: list[float] = field(default_factory=list)
    host_change: list[float] = field(default_factory=list)
    host_steady: list[float] = field(default_factory=list)
    host_changed: list[float] = field(default_factory=list)
    host_frame: list[float] = field(default_factory=list)
    host_pixels: list[float] = field(default_factory=list)
    host_overlapped: list[float] = field(default_factory=list)


def time_interleaved(
    modes: Mapping[str, TimedEngine],
    inputs: Sequence[NDArray[np.float32]],
    members: int,
    clock: Clock,
    seconds: float,
    *,
    pixels: PixelFrame | None = None,
    seed: int = 0,
    lost: dict[str, Exception] | None = None,
) -> dict[str, GpuTimingSamples]:
    """Times all modes for about this many seconds: MIN_ROUNDS to MAX_ROUNDS rounds after one warm-up round.

    If even MIN_ROUNDS take far longer, there are fewer. Every change uses a new random alpha, the same for all modes.

    Args:
        modes: The engines by name.
        inputs: Several inputs of one shape, float32 (N, C, H, W), taken in turn.
        members: Number of members.
        clock: Reads the GPU's time.
        seconds: For all modes together.
        pixels: A frame of the inputs' size, to time `Engine.render`, too.
        seed: Seed of the alphas.
        lost: Receives the modes that failed, which then have no samples; without it the first failure is raised.
    """
    rng = np.random.default_rng(seed)
    samples: dict[str, GpuTimingSamples] = {}
    leads: dict[str, int] = {}

    def attempt(name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if lost is None:
                raise
            lost[name] = error
            samples.pop(name, None)

    def start(name: str) -> None:
        leads[name] = _warm_up(modes[name].engine, inputs[0], members, clock)
        samples[name] = GpuTimingSamples()

    for name in modes:
        attempt(name, partial(start, name))
    started = clock.now()
    for number in range(MAX_ROUNDS + 1):
        coefficients = rng.dirichlet(np.ones(members), 3)
        names = list(samples)
        if not names:
            break
        for name in names[number % len(names) :] + names[: number % len(names)]:
            sample = samples[name] if number else GpuTimingSamples()
            attempt(
                name, partial(_run_turn, modes[name], leads[name], inputs[number % len(inputs)], coefficients, clock, sample)
            )
            if pixels is not None and name in samples:
                attempt(name, partial(_time_pixels, modes[name].engine, pixels, clock, sample))
        if number == 0:
            started = clock.now()
            continue
        passed = clock.now() - started
        if passed >= (seconds if number >= MIN_ROUNDS else seconds * MAX_TIME_FACTOR):
            break
    return samples


def _warm_up(engine: DeviceEngine, x: NDArray[np.float32], members: int, clock: Clock) -> int:
    """Gives every slot weights, an input and a first frame; returns how many frames take LEAD_S seconds."""
    for slot in range(engine.slots):
        engine.refit(slot, np.full(members, 1 / members))
        engine.upload(slot, x)
        engine.enqueue(slot)
        engine.synchronize(slot)
        clock.wait(engine.stream_handle(slot))
    return min(max(math.ceil(LEAD_S / max(_time_frame(engine, 0, clock), 1e-6)), 1), MAX_LEAD_FRAMES)


def _run_turn(
    mode: TimedEngine,
    lead: int,
    x: NDArray[np.float32],
    coefficients: NDArray[np.float64],
    clock: Clock,
    sample: GpuTimingSamples,
) -> None:
    engine = mode.engine
    stream = engine.stream_handle(0)
    clock.reset()
    engine.upload(0, x)
    for _ in range(lead):
        engine.enqueue(0)
    marks: list[Any] = [clock.mark(stream)]
    engine.enqueue(0)
    marks.append(clock.mark(stream))
    if mode.changes:
        engine.refit(0, coefficients[0])
        marks.append(clock.mark(stream))
        engine.enqueue(0)
        marks.append(clock.mark(stream))
    engine.enqueue(0)
    clock.wait(stream)
    sample.steady.append(clock.between(marks[0], marks[1]))
    if mode.changes:
        sample.change.append(clock.between(marks[1], marks[2]))
        sample.first.append(clock.between(marks[2], marks[3]))
        sample.host_refit.extend(_time_refit_calls(mode, lead, coefficients[0], clock))
    if mode.async_refit:
        sample.undisturbed.extend(_time_frames(engine, lead, clock))
        with _refitting(engine, 1, coefficients):
            sample.disturbed.extend(_time_frames(engine, lead, clock))
    if mode.changes:
        started = clock.now()
        engine.refit(0, coefficients[1])
        engine.synchronize(0)
        sample.host_change.append(clock.now() - started)
    sample.host_steady.append(_time_frame(engine, 0, clock))
    if mode.changes:
        sample.host_changed.append(
            _time_frame_beside_change(engine, coefficients[2], clock)
            if mode.async_refit
            else _time_frame_after_change(engine, coefficients[2], clock)
        )
    started = clock.now()
    engine.upload(0, x)
    engine.enqueue(0)
    engine.download(0)
    sample.host_frame.append(clock.now() - started)


def _time_refit_calls(mode: TimedEngine, lead: int, coefficients: NDArray[np.float64], clock: Clock) -> Iterator[float]:
    """Times the calls of changes, each while frames of slot 0 are queued; that of a mode with two slots changes the idle one."""
    engine, slot = mode.engine, 1 if mode.async_refit else 0
    for _ in range(REFIT_CALLS):
        for _ in range(lead):
            engine.enqueue(0)
        started = clock.now()
        engine.refit(slot, coefficients)
        yield clock.now() - started
        clock.wait(engine.stream_handle(0))
        engine.synchronize(slot)


def _time_frames(engine: DeviceEngine, lead: int, clock: Clock) -> list[float]:
    """Times NEIGHBOR_FRAMES frames of slot 0 on the GPU, queued at once behind `lead` others."""
    stream = engine.stream_handle(0)
    clock.reset()
    for _ in range(lead):
        engine.enqueue(0)
    marks = [clock.mark(stream)]
    for _ in range(NEIGHBOR_FRAMES):
        engine.enqueue(0)
        marks.append(clock.mark(stream))
    clock.wait(stream)
    return [clock.between(first, second) for first, second in itertools.pairwise(marks)]


@contextmanager
def _refitting(engine: DeviceEngine, slot: int, coefficients: NDArray[np.float64]) -> Iterator[None]:
    """Has another thread change the slot again and again, each change waited for, from the first one on until the end of the block."""
    running, stop = threading.Event(), threading.Event()

    def refit_until_stopped() -> None:
        try:
            while not stop.is_set():
                for row in coefficients:
                    engine.refit(slot, row)
                    running.set()
                    engine.synchronize(slot)
        finally:
            running.set()

    with ThreadPoolExecutor(1) as pool:
        refits = pool.submit(refit_until_stopped)
        running.wait()
        try:
            yield
        finally:
            stop.set()
    refits.result()


def _time_pixels(engine: DeviceEngine, pixels: PixelFrame, clock: Clock, sample: GpuTimingSamples) -> None:
    """Times frames from pixels to pixels, one by one and overlapped as `Session.stream` has them."""
    started = clock.now()
    engine.render(0, *pixels)
    sample.host_pixels.append(clock.now() - started)
    with ThreadPoolExecutor(FRAMES_IN_FLIGHT) as pool:
        started = clock.now()
        list(pool.map(lambda _: engine.render(0, *pixels), range(OVERLAPPED_FRAMES)))
        sample.host_overlapped.append((clock.now() - started) / OVERLAPPED_FRAMES)


def _time_frame(engine: DeviceEngine, slot: int, clock: Clock) -> float:
    started = clock.now()
    engine.enqueue(slot)
    clock.wait(engine.stream_handle(slot))
    return clock.now() - started


def _time_frame_after_change(engine: DeviceEngine, coefficients: NDArray[np.float64], clock: Clock) -> float:
    """Times a frame with a change before it, in the same slot."""
    started = clock.now()
    engine.refit(0, coefficients)
    engine.enqueue(0)
    clock.wait(engine.stream_handle(0))
    return clock.now() - started


def _time_frame_beside_change(engine: DeviceEngine, coefficients: NDArray[np.float64], clock: Clock) -> float:
    """Times a frame of slot 0 while slot 1 is changed, until both finish: the next frame could use slot 1 without waiting."""
    started = clock.now()
    engine.enqueue(0)
    engine.refit(1, coefficients)
    clock.wait(engine.stream_handle(0))
    engine.synchronize(1)
    return clock.now() - started


def compute_median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Returns the median of the ratios round by round."""
    return float(np.median(np.divide(above, below)))

"""Measures a change with per-tensor coefficients against a plain one, interleaved within one run.

Launched: the whole change including the copy of its coefficients, one by one, which for small families is dominated by the host.
Replayed: the kernels alone, as a CUDA graph, which is the GPU time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.clock import Clock
from dni_deploy.errors import DniError
from engines.cuda import backend as cuda
from engines.cuda import cuda_graph
from engines.cuda.blender import DeviceBlender, WeightBuffer


def draw_rows(weights: int, members: int, seed: int) -> NDArray[np.float64]:
    """Draws a row of random coefficients for each weight, none 0: float64 (W, N)."""
    return np.random.default_rng(seed).dirichlet(np.ones(members), weights)


def measure_ratios(
    blenders: Sequence[DeviceBlender],
    lives: Sequence[WeightBuffer],
    coefficients: NDArray[np.float64],
    weights: int,
    stream: cuda.Stream,
    clock: Clock,
    rounds: int,
    per_mark: float,
) -> tuple[float, float | None]:
    """Measures per-tensor over plain, launched and replayed (None if it cannot be captured): medians of the per-round ratios.

    `blenders` and `lives` are the sets to rotate through; `per_mark` is the seconds of work between two marks.
    """
    pairs = list(zip(blenders, lives, strict=True))
    rows = [draw_rows(weights, len(coefficients), seed) for seed in range(2)]
    turn, fresh = 0, True

    def blend_plain() -> None:
        for blender, live in pairs:
            blender.blend(coefficients, live, stream)

    def blend_per_tensor() -> None:
        nonlocal turn
        turn += fresh  # differ from the rows of the previous call, so that they are copied
        for blender, live in pairs:
            blender.blend(rows[turn % 2], live, stream)

    launched = _measure_ratio(blend_per_tensor, blend_plain, stream, clock, rounds, per_mark)
    fresh = False  # a captured graph always copies the same rows
    graphs: list[cuda_graph.CudaGraph] = []
    try:
        for work in (blend_plain, blend_per_tensor):
            cuda_graph.begin_capture(stream.handle)
            work()
            graphs.append(cuda_graph.end_capture(stream.handle))
        first, second = graphs
        replayed = _measure_ratio(
            lambda: second.launch(stream.handle), lambda: first.launch(stream.handle), stream, clock, rounds, per_mark
        )
    except DniError:
        cuda_graph.abort_capture()
        return launched, None
    finally:
        for graph in graphs:
            graph.close()
    return launched, replayed


def _measure_ratio(
    above: Callable[[], None], below: Callable[[], None], stream: cuda.Stream, clock: Clock, rounds: int, per_mark: float
) -> float:
    repeats, ratios = 1, list[float]()
    while len(ratios) < rounds:
        seconds = []
        for work in (below, above):
            clock.reset()
            first = clock.mark(stream.handle)
            for _ in range(repeats):
                work()
            second = clock.mark(stream.handle)
            clock.wait(stream.handle)
            seconds.append(max(clock.between(first, second), 1e-9))
        if seconds[0] < per_mark and repeats < 10_000 and not ratios:
            repeats *= 4
            continue
        ratios.append(seconds[1] / seconds[0])
    return float(np.median(ratios[1:] or ratios))

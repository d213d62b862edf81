"""Measures the bandwidth of the blend kernel against a plain copy in the same run.

Blends rotate through enough sets of members and weight buffers that together they are far larger than the L2 cache, which would
otherwise serve repeated blends of a small family. There are two figures for each family: launched one by one, where the launch
overhead of the host shows for small families, and replayed as a CUDA graph, which is the GPU time alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.gpu.ceilings import DeviceCopy
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.per_tensor_coefficients import measure_ratios
from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import DniError, EngineError
from engines.cuda import backend as cuda
from engines.cuda import cuda_graph
from engines.cuda.blender import DeviceBlender, WeightBuffer
from engines.cuda.device import Device
from engines.cuda.layout import DeviceLayout
from engines.cuda.members import DeviceMembers
from engines.lowering.gpu import LoweredGraph, LoweredWeight
from engines.lowering.recipes import LinearRecipe, Recipes

MIN_ROTATED_BYTES = 1 << 29
"""Smallest size of all sets together: eight times the largest L2 cache today."""
MAX_SETS = 16
WORK_PER_MARK_S = 4e-3
"""Seconds of work between two marks, a thousand times the events' resolution."""
MAX_RELATIVE_ERROR = {np.dtype(np.float32): 4e-6, np.dtype(np.float16): 1.5e-3}
"""Relative to each tensor's largest value: rounding to float16 is 5e-4; float32 sums over 16 members and a root are 1e-6."""


def make_synthetic_family(parameters: int, precision: str, tensors: int = 100) -> LoweredGraph:
    """Makes a family of plain tensors with this many parameters in all and no graph, for measuring the kernel alone."""
    shape = (-(-parameters // tensors),)
    names = [f"t{number}" for number in range(tensors)]
    dtype = np.dtype(np.float16 if precision == "fp16" else np.float32)
    recipes = Recipes({name: LinearRecipe(name, shape) for name in names}, [])
    return LoweredGraph(onnx.ModelProto(), recipes, tuple(LoweredWeight(name, shape, dtype) for name in names))


def random_members(
    lowered: LoweredGraph, members: int, dtype: Any = np.float32, seed: int = 0
) -> list[dict[str, NDArray[Any]]]:
    """Draws uniform numbers in -1..1 for a synthetic family."""
    rng = np.random.default_rng(seed)
    return [
        {weight.name: (rng.random(weight.shape, np.float32) * 2 - 1).astype(dtype) for weight in lowered.weights}
        for _ in range(members)
    ]


def measure(
    device: Device,
    lowered: LoweredGraph,
    members: Sequence[Mapping[str, NDArray[Any]]],
    clock: Clock,
    copy_bytes_per_second: float,
    rounds: int = 15,
) -> dict[str, Any]:
    """Measures one family, as JSON. The caller holds the device.

    Raises:
        EngineError: The blend is wrong.
    """
    coefficients = np.arange(1.0, len(members) + 1)
    coefficients /= coefficients.sum()
    layout = DeviceLayout.from_lowered(lowered)
    stream = device.create_stream()
    with ExitStack() as owned:
        blenders: list[DeviceBlender] = []
        lives: list[WeightBuffer] = []
        sets = 2
        while len(blenders) < sets:
            uploaded = DeviceMembers(device, layout, lowered.recipes, list(members))
            owned.callback(uploaded.free)
            blenders.append(DeviceBlender(device, uploaded))
            lives.append(WeightBuffer(device, layout))
            owned.callback(lives[-1].free)
            sets = min(max(2, -(-MIN_ROTATED_BYTES // blenders[0].count_bytes_moved(coefficients))), MAX_SETS)
        bytes_moved = blenders[0].count_bytes_moved(coefficients)
        copies = [DeviceCopy(device, -(-bytes_moved // 2), stream, seed) for seed in range(sets)]
        for copy in copies:
            owned.callback(copy.free)

        blends = [
            lambda blender=blender, live=live: blender.blend(coefficients, live, stream)
            for blender, live in zip(blenders, lives, strict=True)
        ]
        blends[0]()
        stream.synchronize()
        error = _check_blend(lowered, members, coefficients, lives[0])
        launched, replayed = _time_calls(blends, stream, clock, rounds)
        copied = _time_calls([copy.run for copy in copies], stream, clock, rounds)
        by_row = measure_ratios(blenders, lives, coefficients, len(members[0]), stream, clock, rounds, WORK_PER_MARK_S)
    seconds = replayed or launched
    return {
        "members": len(members),
        "parameters": sum(weight.count for weight in lowered.weights),
        "tensors": len(lowered.weights),
        "member_bytes": sum(int(tensor.nbytes) for tensor in members[0].values()),
        "bytes": bytes_moved,
        "sets": sets,
        "error": error,
        "launched_us": launched * 1e6,
        "replayed_us": None if replayed is None else replayed * 1e6,
        "bytes_per_second": bytes_moved / seconds,
        "over_copy": bytes_moved / seconds / copy_bytes_per_second,
        "over_copy_of_same_bytes": (copied[1] or copied[0]) / seconds,
        "by_row_over_plain_launched": by_row[0],
        "by_row_over_plain_replayed": by_row[1],
    }


def _time_calls(
    calls: Sequence[Callable[[], None]], stream: cuda.Stream, clock: Clock, rounds: int
) -> tuple[float, float | None]:
    """Returns median seconds of a call, launched one by one and replayed as a graph (None if it cannot be captured)."""

    def launch() -> None:
        for call in calls:
            call()

    launched = _median_seconds(launch, stream, clock, rounds) / len(calls)
    try:
        cuda_graph.begin_capture(stream.handle)
        launch()
        graph = cuda_graph.end_capture(stream.handle)
    except DniError:
        cuda_graph.abort_capture()
        return launched, None
    replayed = _median_seconds(lambda: graph.launch(stream.handle), stream, clock, rounds) / len(calls)
    graph.close()
    return launched, replayed


def _median_seconds(work: Callable[[], None], stream: cuda.Stream, clock: Clock, rounds: int) -> float:
    repeats = 1
    seconds: list[float] = []
    while len(seconds) < rounds:
        clock.reset()
        first = clock.mark(stream.handle)
        for _ in range(repeats):
            work()
        second = clock.mark(stream.handle)
        clock.wait(stream.handle)
        passed = clock.between(first, second)
        if passed < WORK_PER_MARK_S and repeats < 10_000 and not seconds:
            repeats *= 4
            continue
        seconds.append(passed / repeats)
    return max(float(np.median(seconds[1:] or seconds)), 1e-9)


def _check_blend(
    lowered: LoweredGraph, members: Sequence[Mapping[str, NDArray[Any]]], coefficients: NDArray[np.float64], live: WeightBuffer
) -> float:
    """Returns the largest error of any weight relative to its largest value, against the float64 blend of the raw tensors."""
    blended = lowered.recipes.compute_values(blend_float64(members, coefficients))
    worst = 0.0
    for weight in lowered.weights:
        values = np.empty(weight.shape, weight.dtype)
        live.buffer.download(values, offset=live.layout.offset_of(weight.name))
        expected = blended[weight.name]
        peak = max(float(np.abs(expected).max()), 1e-30)
        error = float(np.abs(np.subtract(values, expected, dtype=np.float64)).max()) / peak
        if not error <= MAX_RELATIVE_ERROR[weight.dtype]:
            raise EngineError(
                f"The blend is wrong on this GPU: {weight.name} differs from float64 by {error:.1e} of its range."
            )
        worst = max(worst, error)
    return worst

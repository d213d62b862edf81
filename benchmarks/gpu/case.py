"""Case: one network at one shape and precision: every way opened, checked, and then all timed together."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.check import Agreement, agreement, fault
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.modes import GpuBackendMode, build_plan, has_plan, max_plan_size, why_torch_unavailable
from benchmarks.gpu.prepared import REFERENCE_ALPHAS, PreparedNetwork, random_input, read_expected_outputs
from benchmarks.gpu.schedule import GpuTimingSamples, TimedEngine, compute_median_ratio, time_interleaved
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, EngineError, escape_name
from engines.interface import DeviceEngine

INPUT_COUNT = 3
MAX_OPENING_FRACTION = 0.7
"""Of the time for a case, after which nothing more is opened: what is open must still be timed."""
NOT_REACHED_REASON = "not reached in the time that was given"
HURRIED_TIMING_FRACTION = 0.3
"""Of the seconds of timing, for figures that a later and longer timing replaces."""


def run_case(
    prepared: PreparedNetwork,
    folder: Path,
    bundle: Bundle,
    shape: tuple[int, int],
    precision: str,
    ways: Sequence[GpuBackendMode],
    clock: Clock,
    *,
    may_build: bool = True,
    seconds: float = 20.0,
    budget: float = 1e9,
    say: Callable[[str], None] = lambda text: None,
    keep: Callable[[dict[str, Any]], None] = lambda case: None,
) -> dict[str, Any]:
    """The case as JSON.

    folder     where `prepared` came from.  shape: height and width of the input.
    may_build  whether a plan that is missing is built; else its rows are skipped.
    seconds    of timing, all ways together.  budget: seconds for everything; ways that it does not reach are skipped, and said so.
    keep       is given the case as far as it is, timed in a hurry, before each way whose opening is slow and may be killed.
    """
    began = time.monotonic()
    full = (1, prepared.signature.input_channels, *shape)
    inputs = [random_input(prepared.signature, full, seed) for seed in range(INPUT_COUNT)]
    expected, reference = _compute_reference(prepared, folder, bundle, inputs[0])
    skipped: dict[str, str] = {}
    agreements: dict[str, Agreement] = {}
    opened: dict[str, TimedEngine] = {}

    def time_opened(seconds: float) -> dict[str, Any]:
        say(f"timing {', '.join(opened) or 'nothing'}")
        lost: dict[str, Exception] = {}
        samples = time_interleaved(opened, inputs, len(bundle.members), clock, seconds, lost=lost)
        for name, error in lost.items():
            skipped[name] = f"failed while it was timed: {_sentence(error, say)}"
            del opened[name]
        return {
            "network": prepared.name,
            "title": prepared.title,
            "parameters": prepared.parameters,
            "members": len(bundle.members),
            "shape": list(full),
            "precision": precision,
            "clock": clock.name,
            "reference": reference,
            "rows": [
                {
                    "name": way.name,
                    "title": way.title,
                    "road": opened[way.name].engine.update_path,
                    "agreement": agreements[way.name].to_json(),
                    **figures(samples[way.name]),
                }
                for way in ways
                if way.name in samples
            ],
            "ratios": ratios(samples),
            "wrong": {name: found.to_json() for name, found in agreements.items() if name not in samples},
            "skipped": skipped
            | {way.name: NOT_REACHED_REASON for way in ways if way.name not in samples and way.name not in skipped},
            "seconds": round(time.monotonic() - began, 1),
        }

    with ExitStack() as closing:
        for way in ways:
            obstacle = way.unavailable_reason()
            if obstacle is None and time.monotonic() - began > budget * MAX_OPENING_FRACTION:
                obstacle = NOT_REACHED_REASON
            if obstacle is not None:
                skipped[way.name] = obstacle
                continue
            if way.slow and opened:
                keep(time_opened(seconds * HURRIED_TIMING_FRACTION))
            say(f"opening {way.name}")
            try:
                engine = _open(way, bundle, precision, shape, may_build)
                closing.callback(engine.close)
                agreements[way.name] = agreement(engine, expected, changes=way.changes_alpha)
                wrong = fault(agreements[way.name], precision)
                if wrong is None:
                    engine.infer(0, inputs[0])  # at the shape that is timed: what is chosen or compiled per shape is done here
                else:
                    engine.close()
            except Exception as error:  # of PyTorch, pycuda or ours: a row that fails is named, and the others go on
                wrong = _sentence(error, say)
            if wrong is None:
                opened[way.name] = TimedEngine(engine, way.changes_alpha, way.async_refit)
            else:
                skipped[way.name] = wrong
                say(f"  {way.name}: {wrong}")
        return time_opened(seconds)


def _open(way: GpuBackendMode, bundle: Bundle, precision: str, shape: tuple[int, int], may_build: bool) -> DeviceEngine:
    if way.engine is not None and may_build:
        build_plan(bundle, way.engine, precision, max_plan_size(shape))
    elif way.engine is not None and not has_plan(bundle, way.engine, precision):
        raise EngineError("its plan was not built in the time that was given")
    return way.open_engine(bundle, precision)


def figures(samples: GpuTimingSamples) -> dict[str, Any]:
    """Medians in milliseconds, None where alpha cannot change; quartiles of the steady frame; a frame with a change over one without."""

    def median(series: list[float]) -> float | None:
        return float(np.median(series)) * 1e3 if series else None

    quartiles = np.percentile(samples.steady, (25, 75)) * 1e3
    return {
        "rounds": len(samples.steady),
        **{f"{name}_ms": median(series) for name, series in vars(samples).items()},
        "steady_quartiles_ms": [float(value) for value in quartiles],
        "changed_over_steady": compute_median_ratio(samples.host_changed, samples.host_steady)
        if samples.host_changed
        else None,
    }


def ratios(samples: dict[str, GpuTimingSamples]) -> dict[str, float]:
    """ "steady, A / B" for every two ways, round by round."""
    return {
        f"steady, {above} / {below}": compute_median_ratio(samples[above].steady, samples[below].steady)
        for above in samples
        for below in samples
        if above != below
    }


def _compute_reference(
    prepared: PreparedNetwork, folder: Path, bundle: Bundle, x: NDArray[np.float32]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """What to compare with: PyTorch in float64 on this GPU at the case's own shape where it can, else what was prepared."""
    if why_torch_unavailable() is None:
        import torch

        from benchmarks.gpu.torch_peers import compute_expected_outputs

        try:
            return compute_expected_outputs(bundle, x, dict(REFERENCE_ALPHAS)), {
                "by": "PyTorch, float64, this GPU",
                "shape": list(x.shape),
            }
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    stored = read_expected_outputs(folder, prepared.name)
    return stored, {"by": "PyTorch, float64, prepared on a CPU", "shape": list(stored["x"].shape)}


def _sentence(error: Exception, say: Callable[[str], None]) -> str:
    """What goes into the result; all there is to know of an error that is not ours goes to the log."""
    if isinstance(error, DniError):
        return escape_name(error, 300)
    say("".join(traceback.format_exception(error)))
    lines = str(error).strip().splitlines()
    return escape_name(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, 300)

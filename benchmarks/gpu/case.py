"""One network at one shape and precision: every mode is opened and checked, and then all are timed together."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.check import Agreement, describe_fault, measure_agreement
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.modes import GpuBackendMode, build_plan, has_plan, max_plan_size, why_torch_unavailable
from benchmarks.gpu.prepared import REFERENCE_ALPHAS, PreparedNetwork, random_input, read_expected_outputs
from benchmarks.gpu.schedule import (
    NEIGHBOR_FRAMES,
    GpuTimingSamples,
    PixelFrame,
    TimedEngine,
    compute_median_ratio,
    time_interleaved,
)
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, EngineError, escape_name
from dni_deploy.signature import Signature
from engines.interface import DeviceEngine

INPUT_COUNT = 3
MAX_OPENING_FRACTION = 0.7
"""Fraction of a case's time after which no more modes are opened, to leave time for timing the open ones."""
NOT_REACHED_REASON = "not reached in the time that was given"
NOT_BUILT_REASON = "its plan was not built in the time that was given"
HURRIED_TIMING_FRACTION = 0.3
"""Fraction of the timing seconds for preliminary figures, which a longer timing replaces later."""


def run_case(
    prepared: PreparedNetwork,
    folder: Path,
    bundle: Bundle,
    shape: tuple[int, int],
    precision: str,
    modes: Sequence[GpuBackendMode],
    clock: Clock,
    *,
    build_missing: bool = True,
    seconds: float = 20.0,
    budget: float = 1e9,
    report: Callable[[str], None] = lambda text: None,
    keep: Callable[[dict[str, Any]], None] = lambda case: None,
) -> dict[str, Any]:
    """Runs the case and returns it as JSON.

    Args:
        prepared: The network.
        folder: Where `prepared` came from.
        bundle: Its bundle.
        shape: Height and width of the input.
        precision: "fp32" or "fp16".
        modes: The modes, the most important first.
        clock: Reads the GPU's time.
        build_missing: Build a plan that is missing; else its rows are skipped.
        seconds: Of timing, all modes together.
        budget: Seconds for everything; modes that it does not reach are skipped, with that reason.
        report: Called with progress messages.
        keep: Called with the case so far, timed briefly, before each mode that is slow to open and may be killed.
    """
    started = time.monotonic()
    full = (1, prepared.signature.input_channels, *shape)
    inputs = [random_input(prepared.signature, full, seed) for seed in range(INPUT_COUNT)]
    expected, reference = _compute_reference(prepared, folder, bundle, inputs[0])
    pixels = make_pixel_frame(prepared.signature, shape)
    skipped: dict[str, str] = {}
    agreements: dict[str, Agreement] = {}
    opened: dict[str, TimedEngine] = {}

    def time_opened(seconds: float) -> dict[str, Any]:
        report(f"timing {', '.join(opened) or 'nothing'}")
        lost: dict[str, Exception] = {}
        samples = time_interleaved(opened, inputs, len(bundle.members), clock, seconds, pixels=pixels, lost=lost)
        for name, error in lost.items():
            skipped[name] = f"failed while it was timed: {_sentence(error, report)}"
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
            "pcie_bytes": None if pixels is None else count_pcie_bytes(pixels),
            "rows": [
                {
                    "name": mode.name,
                    "title": mode.title,
                    "update_path": opened[mode.name].engine.update_path,
                    "agreement": agreements[mode.name].to_json(),
                    **summarize_samples(samples[mode.name]),
                }
                for mode in modes
                if mode.name in samples
            ],
            "ratios": compute_ratios(samples),
            "wrong": {name: agreement.to_json() for name, agreement in agreements.items() if name not in samples},
            "skipped": skipped
            | {mode.name: NOT_REACHED_REASON for mode in modes if mode.name not in samples and mode.name not in skipped},
            "seconds": round(time.monotonic() - started, 1),
        }

    with ExitStack() as closing:
        for mode in modes:
            obstacle = mode.unavailable_reason()
            if obstacle is None and time.monotonic() - started > budget * MAX_OPENING_FRACTION:
                obstacle = NOT_REACHED_REASON
            if obstacle is not None:
                skipped[mode.name] = obstacle
                continue
            if mode.slow and opened:
                keep(time_opened(seconds * HURRIED_TIMING_FRACTION))
            report(f"opening {mode.name}")
            try:
                engine = _open(mode, bundle, precision, shape, build_missing)
                closing.callback(engine.close)
                agreements[mode.name] = measure_agreement(engine, expected, changes=mode.changes_alpha)
                wrong = describe_fault(agreements[mode.name], precision)
                if wrong is None:
                    engine.infer(0, inputs[0])  # at the timed shape, so that per-shape selection and compilation happen here
                else:
                    engine.close()
            except (
                Exception
            ) as error:  # from PyTorch, the CUDA backend or this project: report the failed row and continue with the others
                wrong = _sentence(error, report)
            if wrong is None:
                opened[mode.name] = TimedEngine(engine, mode.changes_alpha, mode.async_refit)
            else:
                skipped[mode.name] = wrong
                report(f"  {mode.name}: {wrong}")
        return time_opened(seconds)


def make_pixel_frame(signature: Signature, shape: tuple[int, int]) -> PixelFrame | None:
    """Makes a random frame; None for a network that does not turn frames of three channels into frames."""
    if signature.kind != "image" or (signature.input_channels, signature.output_channels) != (3, 3):
        return None
    return PixelFrame(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8), signature)


def count_pcie_bytes(pixels: PixelFrame) -> dict[str, int]:
    """Counts what crosses PCIe for a frame in both directions: from pixels to pixels, and as float32 arrays."""
    values = pixels.frame.size * (1 + pixels.signature.scale**2)
    return {"pixels": values, "float32": 4 * values}


def _open(mode: GpuBackendMode, bundle: Bundle, precision: str, shape: tuple[int, int], build_missing: bool) -> DeviceEngine:
    if mode.engine is not None and build_missing:
        build_plan(bundle, mode.engine, precision, max_plan_size(shape))
    elif mode.engine is not None and not has_plan(bundle, mode.engine, precision):
        raise EngineError(NOT_BUILT_REASON)
    return mode.open_engine(bundle, precision)


def summarize_samples(samples: GpuTimingSamples) -> dict[str, Any]:
    """Summarizes times as medians in ms (None if alpha cannot change), with quartiles, percentiles and ratios.

    In the result: refit_over_frame is the host's time of a change's call plus its device time, over a steady frame. The
    disturbed frames, and as a control the undisturbed ones, are divided by the median undisturbed frame of their round.
    """

    def median(series: list[float]) -> float | None:
        return float(np.median(series)) * 1e3 if series else None

    quartiles = np.percentile(samples.steady, (25, 75)) * 1e3
    summary: dict[str, Any] = {
        "rounds": len(samples.steady),
        **{f"{name}_ms": median(series) for name, series in vars(samples).items()},
        "steady_quartiles_ms": [float(value) for value in quartiles],
        "changed_over_steady": None,
        "host_refit_p99_ms": None,
        "refit_over_frame": None,
        "disturbed_over_steady": None,
        "disturbed_p99_over_steady": None,
        "undisturbed_p99_over_steady": None,
    }
    if samples.host_changed:
        summary["changed_over_steady"] = compute_median_ratio(samples.host_changed, samples.host_steady)
    if samples.host_refit:
        summary["host_refit_p99_ms"] = float(np.percentile(samples.host_refit, 99)) * 1e3
        summary["refit_over_frame"] = (summary["host_refit_ms"] + summary["change_ms"]) / summary["steady_ms"]
    if samples.disturbed:
        undisturbed, disturbed = (
            np.reshape(series, (-1, NEIGHBOR_FRAMES)) for series in (samples.undisturbed, samples.disturbed)
        )
        steady = np.median(undisturbed, axis=1, keepdims=True)
        summary["disturbed_over_steady"] = float(np.median(disturbed / steady))
        summary["disturbed_p99_over_steady"] = float(np.percentile(disturbed / steady, 99))
        summary["undisturbed_p99_over_steady"] = float(np.percentile(undisturbed / steady, 99))
    return summary


def compute_ratios(samples: dict[str, GpuTimingSamples]) -> dict[str, float]:
    """Computes "steady, A / B" for every two modes, round by round."""
    return {
        f"steady, {above} / {below}": compute_median_ratio(samples[above].steady, samples[below].steady)
        for above in samples
        for below in samples
        if above != below
    }


def _compute_reference(
    prepared: PreparedNetwork, folder: Path, bundle: Bundle, x: NDArray[np.float32]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Computes the reference: PyTorch in float64 on this GPU at the shape of the case, or else the prepared one."""
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


def _sentence(error: Exception, report: Callable[[str], None]) -> str:
    """Describes an error in a line for the result; the traceback of an unexpected one goes to the log."""
    if isinstance(error, DniError):
        return escape_name(error, 300)
    report("".join(traceback.format_exception(error)))
    lines = str(error).strip().splitlines()
    return escape_name(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, 300)

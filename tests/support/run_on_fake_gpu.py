"""Runs a program for a GPU on the fake one, at sizes that a CPU computes in seconds; in a process of its own.

    python -m tests.support.run_on_fake_gpu TENSORRT MODULE ARGUMENT...

TENSORRT is a version that the fake plays, such as rtx-1.7. `benchmarks.gpu.run_all` starts its steps in the same way.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import modes, run_all, schedule
from benchmarks.gpu.measurement import Measurement
from engines import registry
from tests.fakes.gpu import install

SHRINK = 10
"""By how much each side of a frame is shorter. Prepared outputs are of 64 x 64, which plans still take."""


def launcher(version: str) -> tuple[str, ...]:
    """What a module's name and its arguments are appended to."""
    return (sys.executable, "-m", "tests.support.run_on_fake_gpu", version)


def shrink_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import ceilings, kernel  # these import a CUDA package

    parse_shape: Callable[[str], tuple[int, int]] = program._shape

    def parse_small_shape(text: str) -> tuple[int, int]:
        height, width = parse_shape(text)
        return height // SHRINK, width // SHRINK

    height, width = modes.TUNED_PLAN_SIZE
    monkeypatch.setattr(program, "_shape", parse_small_shape)
    monkeypatch.setattr(modes, "TUNED_PLAN_SIZE", (height // SHRINK, width // SHRINK))
    monkeypatch.setattr(modes, "MIN_PLAN_SIZE", (8, 8))
    for name, count in (("MIN_ROUNDS", 1), ("MAX_LEAD_FRAMES", 2), ("OVERLAPPED_FRAMES", 3)):
        monkeypatch.setattr(schedule, name, count)
    monkeypatch.setattr(ceilings.measure_copy_rate, "__defaults__", (1 << 16, 3))
    monkeypatch.setattr(kernel, "MIN_ROTATED_BYTES", 1 << 18)
    monkeypatch.setattr(kernel, "WORK_PER_MARK_S", 0.0)
    monkeypatch.setattr(Measurement.kernel, "__defaults__", (12_800,))


def shrink_checks(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out sizes, precisions and networks of a program that checks an engine."""
    if hasattr(module, "SIZES"):
        monkeypatch.setattr(module, "SIZES", (3, 257, 10**9))  # the last one is left out, or memory runs out
        monkeypatch.setattr(module.test_kernels, "PAIRS", module.test_kernels.PAIRS[:1])
        monkeypatch.setattr(module.test_kernels, "TYPES", module.test_kernels.TYPES[:1])
    if hasattr(module, "PRECISIONS"):
        monkeypatch.setattr(module, "PRECISIONS", ("fp16",) if hasattr(module, "time_frames") else ("fp32",))
    if hasattr(module, "BUNDLES"):
        monkeypatch.setattr(module, "BUNDLES", dict(list(module.BUNDLES.items())[:1]))
    if hasattr(module, "time_frames"):
        monkeypatch.setattr(module.run, "__defaults__", ((24, 32), 2, 2))


def main(version: str, name: str, *arguments: str) -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(sys.modules, "torch", None)  # it sees no GPU, and each process would import it for seconds
        from tests.engines.onnxruntime_gpu.conftest import on_cpu

        # Eager: ONNX Runtime on the CPU reads memory without waiting for what is queued to write it.
        gpu = install(monkeypatch, tensorrt=version, cuda="cuda-bindings", eager=True)
        on_cpu(monkeypatch)
        monkeypatch.setattr(registry, "CUDA_PROVIDER_LIBRARIES", (".",))
        shrink_sizes(monkeypatch)
        monkeypatch.setattr(run_all, "LAUNCHER", launcher(version))
        module: Any = importlib.import_module("benchmarks.gpu.__main__" if name == "benchmarks.gpu" else name)
        if name.startswith("tests."):
            shrink_checks(module, monkeypatch)
        code = module.main(list(arguments))
        gpu.check()
        return int(code or 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

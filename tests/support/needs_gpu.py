"""Skips a test without a GPU or a package for it; with DNI_REQUIRE_GPU=1 it fails instead."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from engines.cuda import driver

REQUIRE = "DNI_REQUIRE_GPU"


def need_gpu(*packages: str, cuda: bool = True) -> None:
    """packages: by their import names. cuda: pycuda or cuda-bindings as well.

    Asks the driver first: without one, TensorRT's classes crash.
    """
    missing = [name for name in packages if find_spec(name) is None]
    reason = driver.why_gpu_unavailable() or (f"{' and '.join(missing)} not installed" if missing else None)
    reason = reason or (driver.why_no_cuda_package() if cuda else None)
    if reason is not None:
        _skip_or_fail(reason)


def need_cuda_provider() -> None:
    """ONNX Runtime with its CUDA provider, which the package onnxruntime-gpu has."""
    need_gpu("onnxruntime")
    from onnxruntime import get_available_providers

    if "CUDAExecutionProvider" not in get_available_providers():
        _skip_or_fail("this onnxruntime has no CUDA provider: onnxruntime-gpu is absent")


def run_gpu_program(module: str, *arguments: str, timeout_s: float = 600) -> None:
    """Runs a program of the tests in a process of its own, without fakes; fails with what it printed where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def _skip_or_fail(reason: str) -> None:
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, and {reason}")
    pytest.skip(reason)

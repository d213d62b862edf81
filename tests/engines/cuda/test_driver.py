"""What the NVIDIA driver reports, and where its compiler is, asked without any package."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.cuda import driver
from tests.fakes.gpu import FakeGpu


def library(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """A libcuda that has these functions and sees no GPU."""
    known = {"cuInit": lambda flags: 0, "cuDeviceGetCount": lambda count: 0, "cuDriverGetVersion": lambda version: 0}
    monkeypatch.setattr(driver, "load_driver_library", lambda: SimpleNamespace(**{**known, **functions}))


def test_names_and_capabilities_are_read(gpu: FakeGpu) -> None:
    assert driver.query_driver() == driver.Driver((13, 0), (("Fake H200", (9, 0)),))
    assert driver.why_gpu_unavailable() is None


def test_without_a_driver_the_reason_names_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "CUDA_DRIVER_LIBRARY", "libcuda-that-nobody-has.so.1")
    assert driver.load_driver_library() is None
    assert driver.why_gpu_unavailable() == "no NVIDIA driver on this machine (libcuda-that-nobody-has.so.1 not found)"


def test_a_driver_that_does_not_start_gives_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, cuInit=lambda flags: 100)
    assert str(driver.why_gpu_unavailable()).endswith("cuInit failed with CUDA error 100")


def test_a_driver_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch)
    assert driver.query_driver() == driver.Driver((0, 0), ())
    assert driver.why_gpu_unavailable() == "the NVIDIA driver is there and sees no GPU"


def test_nvcc_is_looked_for_where_toolkits_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(driver, "DEFAULT_CUDA_HOME", str(tmp_path / "none"))
    assert driver.find_nvcc() is None
    compiler = tmp_path / "cuda" / "bin" / "nvcc"
    compiler.parent.mkdir(parents=True)
    compiler.touch(0o755)
    assert driver.find_nvcc() == str(compiler)
    monkeypatch.setenv("PATH", str(compiler.parent))
    assert driver.find_nvcc() == "nvcc"

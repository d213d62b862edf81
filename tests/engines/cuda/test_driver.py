"""What the NVIDIA driver reports, and where its compiler is, asked without any package."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dni_deploy.utils.install_line import format_install_line
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
    monkeypatch.setattr(driver, "driver_library_name", lambda: "libcuda-that-nobody-has.so.1")
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


@pytest.mark.parametrize(("system", "library", "tool"), [("posix", "libcuda.so.1", "nvcc"), ("nt", "nvcuda.dll", "nvcc.exe")])
def test_names_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str, library: str, tool: str) -> None:
    asked: list[str] = []

    def load(name: str) -> None:
        asked.append(name)
        raise OSError

    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("CUDA_PATH", str(tmp_path))
    monkeypatch.setattr(driver, "DEFAULT_CUDA_HOME", str(tmp_path / "none"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / tool).touch(0o755)
    monkeypatch.setattr(driver.ctypes, "CDLL", load)
    monkeypatch.setattr(driver.shutil, "which", lambda name: None)
    monkeypatch.setattr(driver.os, "name", system)
    reason, nvcc = driver.why_gpu_unavailable(), driver.find_nvcc()
    monkeypatch.undo()
    assert (reason, asked) == (f"no NVIDIA driver on this machine ({library} not found)", [library])
    assert nvcc == str(tmp_path / "bin" / tool)


PACKAGES = pytest.mark.parametrize(
    ("installed", "variable", "chosen", "reason"),
    [
        ({"pycuda", "cuda.bindings"}, None, "pycuda", None),
        ({"pycuda", "cuda.bindings"}, "", "pycuda", None),
        ({"pycuda", "cuda.bindings"}, "cuda-bindings", "cuda-bindings", None),
        ({"cuda.bindings"}, None, "cuda-bindings", None),
        ({"pycuda"}, None, "pycuda", None),
        ({"pycuda"}, "cuda-bindings", None, "DNI_CUDA names cuda-bindings, which is not installed"),
        (set(), None, None, f"neither pycuda nor cuda-bindings installed: {format_install_line('gpu')}"),
        ({"pycuda"}, "cuda", None, "DNI_CUDA is 'cuda', which is neither pycuda nor cuda-bindings"),
    ],
)


@PACKAGES
def test_the_package_is_chosen_by_what_is_installed_and_by_the_variable(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], variable: str | None, chosen: str | None, reason: str | None
) -> None:
    def find_spec(name: str) -> object:
        if name.startswith("cuda.") and name not in installed:
            raise ModuleNotFoundError(name)  # as where there is no package `cuda`
        return object() if name in installed else None

    monkeypatch.setattr(driver, "find_spec", find_spec)
    monkeypatch.delenv("DNI_CUDA", raising=False)
    if variable is not None:
        monkeypatch.setenv("DNI_CUDA", variable)
    assert driver.find_cuda_package() == chosen
    assert driver.why_no_cuda_package() == reason

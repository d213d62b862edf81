"""doctor reports correctly what is installed and what is missing."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.api import doctor as home
from dni_deploy.api.doctor import EngineState, doctor
from dni_deploy.utils.install_line import format_install_line, format_requirement
from engines import registry
from engines.cuda import driver
from engines.registry import ENGINES


def versions(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    number_by_name = {name.replace("_", "-"): number for name, number in installed.items()}
    monkeypatch.setattr(home, "_installed_version", lambda name: number_by_name.get(name, ""))


def test_doctor_reports_this_machine() -> None:
    report = doctor()
    assert {name: package_version for name, package_version, _ in report.packages}["numpy"] == version("numpy")
    [state] = [state for state in report.engines if state.name == "onnxruntime"]
    assert state.available
    assert version("onnxruntime") in state.reason
    assert int(report.machine["cores"]) >= 1
    assert report.machine["memory"].endswith("GiB")


def test_doctor_lists_all_engines_and_each_reason_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "load_driver_library", lambda: None)
    report = doctor()
    states = {state.name: state for state in report.engines}
    assert list(states) == list(ENGINES)
    assert states["tensorrt"] == EngineState("tensorrt", False, "no NVIDIA driver on this machine (libcuda.so.1 not found)")
    assert states["onnxruntime-gpu"].reason == "as tensorrt"
    assert states["onnxruntime"].available
    [line] = [line for line in report.advice if "GPU" in line]
    assert line.startswith("There is no NVIDIA GPU to use here: no NVIDIA driver")
    assert "Bundles run on the CPU" in line


def test_two_installed_runtimes_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, onnxruntime="1.32.0", onnxruntime_gpu="1.32.0")
    [warning] = doctor().warnings
    assert "overwritten each other's files" in warning
    assert "pip uninstall" in warning


def test_doctor_reports_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch)
    report = doctor()
    assert not any(state.available for state in report.engines)
    [state] = [state for state in report.engines if state.name == "onnxruntime"]
    assert state.reason == "not installed"
    for extra in ("cpu", *home.PACKAGES_BY_EXTRA):
        assert [line for line in report.advice if line.endswith(format_install_line(extra))], extra
    assert report.to_json()["packages"]["numpy"] is None


def test_a_runtime_that_crashes_at_import_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, onnxruntime="1.32.0")
    crashed = subprocess.CompletedProcess([], -11, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: crashed)
    report = doctor()
    [state] = [state for state in report.engines if state.name == "onnxruntime"]
    assert not state.available
    assert state.reason == "the import ended with signal 11"
    assert len(report.warnings) == 1


class Cuda:
    """A fake libcuda with these GPUs."""

    def __init__(self, *gpus: tuple[str, int, int], code: int = 0, version: int = 13000) -> None:
        self.gpus, self.code, self.version = gpus, code, version

    def cuInit(self, flags: int) -> int:
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.gpus)
        return 0

    def cuDriverGetVersion(self, number: Any) -> int:
        number._obj.value = self.version
        return 0

    def cuDeviceGetName(self, name: Any, length: int, index: int) -> int:
        name.value = self.gpus[index][0].encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, index: int) -> int:
        value._obj.value = self.gpus[index][{75: 1, 76: 2}[attribute]]
        return 0


H200 = ("NVIDIA H200", 9, 0)


def with_gpu(monkeypatch: pytest.MonkeyPatch, cuda: Cuda, nvcc: str | None = "/usr/bin/nvcc", **installed: str) -> Any:
    """Returns the report of a machine with this driver and these versions of all packages."""
    monkeypatch.setattr(driver, "load_driver_library", lambda: cuda)
    monkeypatch.setattr(driver, "find_nvcc", lambda: nvcc)
    monkeypatch.setattr(registry, "_explain_missing_packages", lambda names, extra: None)
    monkeypatch.setattr(driver, "why_no_cuda_package", lambda: None)
    monkeypatch.setattr(home, "_query_providers", lambda: (("CUDAExecutionProvider", "CPUExecutionProvider"), ""))
    versions(monkeypatch, **installed)
    return doctor()


@pytest.mark.parametrize("cuda", [{"pycuda": "2026.1"}, {"cuda_bindings": "13.5.0"}], ids=lambda cuda: next(iter(cuda)))
def test_doctor_reports_a_complete_gpu_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: dict[str, str]
) -> None:
    monkeypatch.setattr(
        registry, "CUDA_PROVIDER_LIBRARIES", (".",)
    )  # the folder `capi` itself: every onnxruntime package has it
    report = with_gpu(
        monkeypatch, Cuda(H200, ("NVIDIA T4", 7, 5)), tensorrt="11.4.0", tensorrt_rtx="1.7.1", **cuda, polygraphy="0.53.6",
        onnxruntime_gpu="1.31.1",
        **{name: "1" for _, packages in home.PACKAGES_BY_EXTRA.values() for name in packages},
    )  # fmt: skip
    assert report.machine["gpu"] == (
        "0: NVIDIA H200 (compute capability 9.0), 1: NVIDIA T4 (compute capability 7.5); NVIDIA driver for CUDA 13.0"
    )
    assert report.machine["nvcc"] == "/usr/bin/nvcc"
    states = {state.name: state for state in report.engines}
    assert all(state.available for state in states.values())
    assert states["tensorrt-rtx"].reason == "TensorRT for RTX 1.7.1 on NVIDIA H200; each bundle needs a plan: dni-deploy build"
    assert states["tensorrt"].reason == "TensorRT 11.4.0 on NVIDIA H200; each bundle needs a plan: dni-deploy build"
    assert states["onnxruntime-gpu"].reason == "onnxruntime-gpu 1.31.1 on NVIDIA H200"
    assert states["onnxruntime"].reason.startswith("onnxruntime-gpu 1.31.1 on the CPU")
    assert (report.warnings, report.advice) == ((), ())


def test_doctor_reports_a_gpu_without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    report = with_gpu(monkeypatch, Cuda(H200), None, onnxruntime="1.32.0")
    assert "NVIDIA H200 (compute capability 9.0); NVIDIA driver for CUDA 13.0" in report.machine["gpu"]
    assert report.machine["nvcc"] == "not found"
    assert not report.warnings
    first = "pip uninstall -y onnxruntime && pip install "
    assert f"For TensorRT on NVIDIA H200: {first}{format_requirement('tensorrt')}" in report.advice
    assert [
        line for line in report.advice if line.startswith("Or TensorRT for RTX") and format_install_line("tensorrt-rtx") in line
    ]
    assert f"For ONNX Runtime on NVIDIA H200: {first}{format_requirement('gpu')}" in report.advice


def test_doctor_wants_nvcc_for_a_gpu_without_shipped_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    [warning] = with_gpu(monkeypatch, Cuda(H200, ("NVIDIA GeForce GTX 1080", 6, 1)), None).warnings
    assert warning.startswith("nvcc was not found")
    assert not with_gpu(monkeypatch, Cuda(("NVIDIA GeForce GTX 1080", 6, 1))).warnings


@pytest.mark.parametrize(("gpu", "version"), [(H200, 12080), (("NVIDIA GeForce GTX 1080", 6, 1), 13000)])
def test_doctor_reports_what_is_too_old_for_cuda_13(
    monkeypatch: pytest.MonkeyPatch, gpu: tuple[str, int, int], version: int
) -> None:
    report = with_gpu(monkeypatch, Cuda(gpu, version=version))
    for_tensorrt, for_onnxruntime = [line for line in report.advice if gpu[0] in line]
    assert "tensorrt-cu12" in for_tensorrt
    for line in (for_tensorrt, for_onnxruntime):
        assert '"onnxruntime-gpu[cuda,cudnn]<1.27"' in line
        assert f"compute capability {gpu[1]}.{gpu[2]}" in line


@pytest.mark.parametrize(("cuda", "message"), [(Cuda(code=100), "CUDA error 100"), (Cuda(), "sees none")])
def test_doctor_reports_a_driver_without_a_gpu(monkeypatch: pytest.MonkeyPatch, cuda: Cuda, message: str) -> None:
    report = with_gpu(monkeypatch, cuda, None)
    assert [line for line in report.advice if message in line and "There is no NVIDIA GPU" in line]
    assert not report.warnings
    assert not {state.name: state for state in report.engines}["tensorrt"].available


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-cu13", "tensorrt-cu12"])
def test_the_version_of_tensorrt_is_read_and_not_imported(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def installed_version(distribution: str) -> str:
        if distribution != name:
            raise PackageNotFoundError
        return "11.4.0"

    monkeypatch.setattr(home, "version", installed_version)
    assert home._installed_version("tensorrt") == "11.4.0"
    assert home._installed_version("pycuda") == ""


@pytest.mark.parametrize(
    "variables", [{}, {"DNI_CACHE": "x"}, {"XDG_CACHE_HOME": "/x"}, {"XDG_CACHE_HOME": "relative"}], ids=str
)
def test_doctor_reports_the_cache_folder_of_export(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from dni_deploy.utils.hardware import cache_folder

    for name in ("DNI_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert doctor().machine["cache"] == str(cache_folder())


def test_doctor_knows_every_extra() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    listed = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = dict(re.findall(r"^([\w-]+) = \[((?:[^\]\"]|\"[^\"]*\")*)\]", listed, re.MULTILINE))
    assert set(extras) == {*home.PACKAGES_BY_EXTRA, "cpu", "gpu", "pycuda", "tensorrt", "tensorrt-rtx", "all", "docs", "test"}
    for extra, (_, packages) in home.PACKAGES_BY_EXTRA.items():
        named = re.findall(r'"([\w-]+)[>=<\[ ]', extras[extra])
        assert set(named) - {"dni-deploy"} <= set(packages), extra
    reported = {name for name, _ in home.REPORTED_PACKAGES}
    assert {name for _, packages in home.PACKAGES_BY_EXTRA.values() for name in packages} <= reported


def test_names_in_the_json_have_no_blanks() -> None:
    assert [name for name in doctor().to_json()["machine"] if " " in name] == []

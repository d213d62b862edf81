"""Doctor: truthful about what is there, and about what is not."""

from __future__ import annotations

import ctypes
import subprocess
from importlib.metadata import version
from typing import Any

import pytest

from dni_deploy.verbs import doctor as home
from dni_deploy.verbs.doctor import doctor


def versions(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    found = {name.replace("_", "-"): number for name, number in installed.items()}
    monkeypatch.setattr(home, "_version", lambda name: found.get(name, ""))


def test_this_machine() -> None:
    report = doctor()
    assert {name: found for name, found, _ in report.packages}["numpy"] == version("numpy")
    [state] = [state for state in report.engines if state.name == "onnxruntime"]
    assert state.runs
    assert version("onnxruntime") in state.why
    assert int(report.machine["cores"]) >= 1
    assert report.machine["memory"].endswith("GiB")


def test_engines_of_later_versions_do_not_claim_to_run() -> None:
    states = {state.name: state for state in doctor().engines}
    assert not states["tensorrt"].runs
    assert "not in this version" in states["tensorrt"].why
    assert not states["onnxruntime-gpu"].runs


def test_two_runtimes_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, onnxruntime="1.32.0", onnxruntime_gpu="1.32.0")
    [warning] = doctor().warnings
    assert "overwritten each other's files" in warning
    assert "pip uninstall" in warning


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch)
    report = doctor()
    assert not any(state.runs for state in report.engines)
    assert report.engines[0].why == "not installed"
    assert [line for line in report.advice if "dni-deploy[cpu]" in line]
    assert [line for line in report.advice if "dni-deploy[export]" in line]
    assert report.to_json()["packages"]["numpy"] is None


def test_a_runtime_that_crashes_at_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, onnxruntime="1.32.0")
    crashed = subprocess.CompletedProcess([], -11, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: crashed)
    report = doctor()
    assert not report.engines[0].runs
    assert report.engines[0].why == "the import ended with signal 11"
    assert len(report.warnings) == 1


@pytest.mark.parametrize("code", [0, 100])
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    class Cuda:
        def cuInit(self, flags: int) -> int:
            return code

        def cuDeviceGetCount(self, count: Any) -> int:
            count._obj.value = 1
            return 0

        def cuDriverGetVersion(self, number: Any) -> int:
            number._obj.value = 12080
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Cuda())
    told = doctor().machine["gpu"]
    assert ("CUDA 12.8, 1 device" in told) == (code == 0)
    assert ("CUDA error 100" in told) == (code == 100)


@pytest.mark.parametrize(
    "variables", [{}, {"DNI_CACHE": "x"}, {"XDG_CACHE_HOME": "/x"}, {"XDG_CACHE_HOME": "relative"}], ids=str
)
def test_the_cache_is_where_export_keeps_it(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from dni_deploy.machine import cache_folder

    for name in ("DNI_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert doctor().machine["cache"] == str(cache_folder())

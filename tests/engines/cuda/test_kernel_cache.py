"""Compiling: the kernels' machine code is kept on disk, checked when it is read, and compiled again where it is not as it should be."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.errors import EngineError, UnavailableError
from tests.fakes.gpu import COMPILER, FakeGpu


@pytest.fixture
def compiled(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compiled, with a cache folder of its own and an nvcc on the PATH."""
    calls: list[str] = []
    real: Any = COMPILER.compile  # type: ignore[attr-defined]

    def compile(*args: Any, **options: Any) -> bytes:
        calls.append(options["arch"])
        return bytes(real(*args, **options))

    monkeypatch.setattr(COMPILER, "compile", compile)
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "cache"))
    tool = tmp_path / "nvcc"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return calls


def kept(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache" / "cuda").iterdir()
    return path


def test_compiled_once(compiled: list[str], tmp_path: Path) -> None:
    from engines.cuda.kernels import load_machine_code

    first = load_machine_code("sm_90")
    assert load_machine_code("sm_90") == first
    assert compiled == ["sm_90"]
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600
    load_machine_code("sm_86")
    assert compiled == ["sm_90", "sm_86"]


def test_another_compiler_compiles_again(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda.kernels import load_machine_code

    load_machine_code("sm_90")
    monkeypatch.setattr(COMPILER, "get_nvcc_version", lambda nvcc: "release 13.1")
    load_machine_code("sm_90")
    assert compiled == ["sm_90", "sm_90"]


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "writable", "gone"])
def test_a_file_that_is_not_as_it_was_written(compiled: list[str], tmp_path: Path, change: str) -> None:
    from engines.cuda.kernels import load_machine_code

    good = load_machine_code("sm_90")
    path = kept(tmp_path)
    data = path.read_bytes()
    if change == "flip":
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elif change == "cut":
        path.write_bytes(data[:-1])
    elif change == "empty":
        path.write_bytes(b"")
    elif change == "writable":
        path.chmod(0o660)
    else:
        path.unlink()
    assert load_machine_code("sm_90") == good
    assert len(compiled) == 2
    assert load_machine_code("sm_90") == good
    assert len(compiled) == 2
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600


def test_a_cache_that_cannot_be_written(compiled: list[str], tmp_path: Path) -> None:
    from engines.cuda.kernels import load_machine_code

    (tmp_path / "cache").write_text("a file where a folder should be")
    assert load_machine_code("sm_90") == load_machine_code("sm_90")
    assert len(compiled) == 2


def test_no_compiler(compiled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from engines.cuda import driver, kernels

    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "no"))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr(driver, "DEFAULT_CUDA_HOME", str(tmp_path / "none"))
    with pytest.raises(UnavailableError, match=r"nvcc is not on the PATH.*install the CUDA toolkit"):
        kernels.load_machine_code("sm_90")


def test_a_compiler_that_does_not_start(compiled: list[str], gpu: FakeGpu) -> None:
    from engines.cuda.kernels import load_machine_code

    gpu.nvcc = False
    with pytest.raises(UnavailableError, match="nvcc could not be run"):
        load_machine_code("sm_90")


def test_a_compiler_that_refuses(compiled: list[str]) -> None:
    from engines.cuda.kernels import load_machine_code

    with pytest.raises(EngineError, match=r"could not compile blend\.cu for sm_x"):
        load_machine_code("sm_x")


def test_loaded_once_per_device(compiled: list[str]) -> None:
    from engines.cuda.device import Device
    from engines.cuda.kernels import BLEND_ARGUMENTS, FRAME_SOURCE, Kernels

    device = Device.open()
    with device:
        kernels = Kernels(device)
        kernels.load_function("blend_f32_f32_1", BLEND_ARGUMENTS)
        Kernels(device).load_function("fold", BLEND_ARGUMENTS)
        assert len(compiled) == 1
        for _ in range(2):
            Kernels(device, FRAME_SOURCE).load_function("frame_to_input_u8", BLEND_ARGUMENTS)
        assert len(compiled) == 2
        with pytest.raises(EngineError, match="no kernel 'blend_f8_f8_1'"):
            kernels.load_function("blend_f8_f8_1", BLEND_ARGUMENTS)
    device.close()


def test_the_source_is_shipped() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^engines = \[.*"cuda/\*\.cu".*\]$', text, re.M)

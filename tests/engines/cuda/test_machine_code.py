"""Machine code: what is shipped is what is loaded; what nvcc compiles is kept on disk and checked when it is read."""

from __future__ import annotations

import logging
import lzma
import os
import re
import stat
from hashlib import sha256
from pathlib import Path

import pytest

from dni_deploy.errors import EngineError, UnavailableError
from engines.cuda import driver, machine_code
from engines.cuda.machine_code import FRAME_SOURCE, KERNEL_SOURCE, load_compiled_code, read_shipped_code
from tests.fakes import nvcc
from tests.fakes.gpu import FakeGpu

BOTH_BACKENDS = True

PTX = "compute_75"


def load_kernels(source: Path = KERNEL_SOURCE) -> None:
    from engines.cuda.device import Device
    from engines.cuda.kernels import Kernels

    device = Device.open()
    with device:
        Kernels(device, source)
    device.close()


@pytest.fixture
def compiled(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compiled, with a cache folder of its own and an nvcc on the PATH."""
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "cache"))
    tool = tmp_path / "nvcc"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return gpu.compiled


@pytest.fixture
def no_compiler(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "find_nvcc", lambda: None)


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [
        ((7, 0), []),
        ((6, 1), []),
        ((7, 5), ["sm_75", PTX]),
        ((8, 0), ["sm_80", PTX]),
        ((8, 6), ["sm_86", PTX]),
        ((8, 7), [PTX]),  # Orin
        ((8, 9), ["sm_89", PTX]),
        ((9, 0), ["sm_90", PTX]),
        ((10, 0), ["sm_100", PTX]),
        ((10, 1), [PTX]),  # Thor
        ((10, 3), ["sm_100", PTX]),
        ((11, 0), [PTX]),
        ((12, 0), ["sm_120", PTX]),
        ((12, 1), ["sm_120", PTX]),
        ((13, 0), [PTX]),
    ],
)
def test_the_best_that_is_shipped_comes_first(capability: tuple[int, int], architectures: list[str]) -> None:
    assert machine_code.choose_architectures(capability) == architectures


@pytest.mark.parametrize("source", [KERNEL_SOURCE, FRAME_SOURCE], ids=lambda source: source.stem)
@pytest.mark.parametrize(
    ("capability", "version", "kind", "architecture"),
    [
        ((9, 0), 13000, "cubin", "sm_90"),
        ((10, 3), 13000, "cubin", "sm_100"),
        ((8, 7), 13000, "ptx", PTX),
        ((13, 0), 13020, "ptx", PTX),
        ((9, 0), 12040, "ptx", PTX),  # a driver that does not know the cubins of CUDA 13
    ],
)
def test_the_shipped_machine_code_is_what_is_loaded(
    no_compiler: None, gpu: FakeGpu, capability: tuple[int, int], version: int, kind: str, architecture: str, source: Path
) -> None:
    gpu.capability, gpu.driver_version = capability, version
    load_kernels(source)
    (loaded,) = gpu.loaded
    assert (loaded.kind, gpu.compiled) == (kind, [])
    shipped = lzma.decompress((machine_code.COMPILED_FOLDER / machine_code.file_name(source, architecture)).read_bytes())
    assert loaded.sha256 == sha256(shipped + b"\0" if kind == "ptx" else shipped).hexdigest()


def test_a_changed_source_is_compiled(compiled: list[str], gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "NVCC_OPTIONS", (*machine_code.NVCC_OPTIONS, "-O1"))
    assert list(read_shipped_code((9, 0), KERNEL_SOURCE)) == []
    load_kernels()
    assert compiled == ["sm_90"]
    assert [code.kind for code in gpu.loaded] == ["fake"]


def test_a_checkout_without_shipped_code_compiles(compiled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine_code, "COMPILED_FOLDER", tmp_path / "none")
    load_kernels()
    assert compiled == ["sm_90"]


def test_an_older_gpu_is_compiled_for(compiled: list[str], gpu: FakeGpu) -> None:
    gpu.capability = (7, 0)
    load_kernels()
    assert compiled == ["sm_70"]


@pytest.mark.parametrize("broken", ["cut", "gone"])
def test_a_file_that_cannot_be_read_is_passed_over(
    no_compiler: None,
    gpu: FakeGpu,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    for path in machine_code.COMPILED_FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "blend.sm_90.cubin.xz"
    if broken == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    monkeypatch.setattr(machine_code, "COMPILED_FOLDER", tmp_path)
    with caplog.at_level(logging.WARNING):
        load_kernels()
    assert [code.kind for code in gpu.loaded] == ["ptx"]
    assert "blend.sm_90.cubin.xz cannot be read" in caplog.text


def test_a_gpu_that_nothing_fits_needs_a_compiler(no_compiler: None, gpu: FakeGpu) -> None:
    gpu.capability = (7, 0)
    with pytest.raises(UnavailableError, match=r"blend\.cu does not fit this GPU \(sm_70\).*nvcc.*install"):
        load_kernels()


def test_what_the_driver_said_is_told_where_there_is_no_compiler(no_compiler: None, gpu: FakeGpu) -> None:
    gpu.driver_version = 10000
    with pytest.raises(UnavailableError, match=r"install a newer driver.*(The driver said: cuModuleLoadData.*){2}"):
        load_kernels()


def test_a_driver_that_refuses_everything(compiled: list[str], gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "compile_source", lambda *arguments: b"nothing that is code")
    gpu.driver_version = 10000
    with pytest.raises(EngineError, match=r"refuses what nvcc compiled of blend\.cu"):
        load_kernels()


def kept(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache" / "cuda").iterdir()
    return path


def test_compiled_once(compiled: list[str], tmp_path: Path) -> None:
    first = load_compiled_code("sm_90")
    assert load_compiled_code("sm_90") == first
    assert compiled == ["sm_90"]
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600
    load_compiled_code("sm_86")
    assert compiled == ["sm_90", "sm_86"]


def test_another_compiler_compiles_again(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load_compiled_code("sm_90")
    monkeypatch.setattr(nvcc, "VERSION", "release 13.1")
    load_compiled_code("sm_90")
    assert compiled == ["sm_90", "sm_90"]


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "writable", "gone"])
def test_a_file_that_is_not_as_it_was_written(compiled: list[str], tmp_path: Path, change: str) -> None:
    good = load_compiled_code("sm_90")
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
    assert load_compiled_code("sm_90") == good
    assert len(compiled) == 2
    assert load_compiled_code("sm_90") == good
    assert len(compiled) == 2
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600


def test_a_cache_that_cannot_be_written(compiled: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert load_compiled_code("sm_90") == load_compiled_code("sm_90")
    assert len(compiled) == 2


def test_no_compiler(compiled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "no"))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr(driver, "DEFAULT_CUDA_HOME", str(tmp_path / "none"))
    with pytest.raises(UnavailableError, match=r"nvcc.* is not on the PATH: install .*CUDA toolkit"):
        load_compiled_code("sm_90")


def test_a_compiler_that_does_not_start(compiled: list[str], gpu: FakeGpu) -> None:
    gpu.nvcc = False
    with pytest.raises(UnavailableError, match="nvcc could not be run"):
        load_compiled_code("sm_90")


def test_a_compiler_that_refuses(compiled: list[str]) -> None:
    with pytest.raises(EngineError, match=r"could not compile blend\.cu for sm_x"):
        load_compiled_code("sm_x")


def test_nvcc_itself_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the real run_nvcc, with a script in nvcc's place."""
    tool = tmp_path / "nvcc"
    tool.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo release 1; exit; fi\nprintf "%s " "$@" > "$6"\n')
    tool.chmod(0o755)
    assert machine_code.run_nvcc(str(tool), ["--version"]) == "release 1\n"
    code = machine_code.compile_source(str(tool), KERNEL_SOURCE, "compute_75").decode()
    assert re.fullmatch(r"-std=c\+\+17 -fmad=false -arch=compute_75 --ptx -o \S+ \S+blend\.cu ", code)
    tool.write_text("#!/bin/sh\necho; echo first line >&2; echo second >&2; exit 1\n")
    with pytest.raises(EngineError, match=r"could not compile blend\.cu for sm_75: first line\. "):
        machine_code.compile_source(str(tool), KERNEL_SOURCE, "sm_75")
    with pytest.raises(UnavailableError, match="could not be run"):
        machine_code.run_nvcc(str(tmp_path / "none"), ["--version"])


def test_loaded_once_per_device(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device
    from engines.cuda.kernels import BLEND_ARGUMENTS, Kernels

    device = Device.open()
    with device:
        kernels = Kernels(device)
        kernels.load_function("blend_f32_f32_1", BLEND_ARGUMENTS)
        Kernels(device).load_function("fold", BLEND_ARGUMENTS)
        assert len(gpu.loaded) == 1
        for _ in range(2):
            Kernels(device, FRAME_SOURCE).load_function("frame_to_input_u8", BLEND_ARGUMENTS)
        assert len(gpu.loaded) == 2
        with pytest.raises(EngineError, match="no kernel 'blend_f8_f8_1'"):
            kernels.load_function("blend_f8_f8_1", BLEND_ARGUMENTS)
    device.close()


def test_sources_and_machine_code_are_shipped() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^engines = \[.*"cuda/\*\.cu", "cuda/compiled/\*".*\]$', text, re.M)

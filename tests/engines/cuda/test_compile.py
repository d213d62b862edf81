"""The shipped machine code: complete, of today's sources, and by the real nvcc for every architecture without a spill."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from dni_deploy.errors import UnavailableError
from engines.cuda import compile, driver, machine_code
from engines.cuda.machine_code import CUBIN_ARCHITECTURES, FRAME_SOURCE, KERNEL_SOURCE, NVCC_OPTIONS, PTX_ARCHITECTURE
from tests.engines.cuda import host_compiler
from tests.fakes.gpu import FakeGpu
from tests.fakes.machine_code import read

SOURCES = pytest.mark.parametrize("source", [KERNEL_SOURCE, FRAME_SOURCE], ids=lambda source: source.stem)
MAX_SHIPPED_BYTES = 2 << 20


def nvcc() -> str:
    found = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if found is None:
        if os.environ.get("DNI_REQUIRE_GPU") == "1":
            pytest.fail("DNI_REQUIRE_GPU=1 and there is no nvcc")
        pytest.skip("no nvcc here, which compiles the kernels for a GPU")
    return found


def decompress(name: str) -> bytes:
    return lzma.decompress((machine_code.COMPILED_FOLDER / name).read_bytes())


def test_the_manifest_describes_what_is_shipped() -> None:
    """Fails after an edit of a source or an option without `python -m engines.cuda.compile`."""
    names = {
        machine_code.file_name(source, one)
        for source in (KERNEL_SOURCE, FRAME_SOURCE)
        for one in (*CUBIN_ARCHITECTURES, PTX_ARCHITECTURE)
    }
    assert {path.name for path in machine_code.COMPILED_FOLDER.iterdir()} == {*names, machine_code.MANIFEST_NAME}
    manifest = json.loads((machine_code.COMPILED_FOLDER / machine_code.MANIFEST_NAME).read_text())
    advice = "a source was edited: run `python -m engines.cuda.compile`, and commit what it writes"
    assert manifest["sources"] == {source.name: machine_code.hash_source(source) for source in (KERNEL_SOURCE, FRAME_SOURCE)}, (
        advice
    )
    assert manifest["options"] == list(NVCC_OPTIONS)
    assert "release" in manifest["compiler"]
    assert manifest["uncompressed"] == {name: sha256(decompress(name)).hexdigest() for name in names}
    assert sum(path.stat().st_size for path in machine_code.COMPILED_FOLDER.iterdir()) < MAX_SHIPPED_BYTES


@SOURCES
@pytest.mark.parametrize("architecture", [*CUBIN_ARCHITECTURES, PTX_ARCHITECTURE])
def test_every_file_is_of_its_kind_and_has_every_kernel(architecture: str, source: Path) -> None:
    code = decompress(machine_code.file_name(source, architecture))
    found = read(code + b"\0" if architecture == PTX_ARCHITECTURE else code)
    assert found is not None
    assert found.kind == ("ptx" if architecture == PTX_ARCHITECTURE else "cubin")
    assert architecture.partition("_")[2] == "{}{}".format(*found.capability)
    assert sorted(found.kernels) == sorted(host_compiler.kernels(source.name))
    assert found.needs <= ((11, 0) if found.kind == "ptx" else (13, 0))


def test_the_folder_is_written_anew(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blend.sm_70.cubin.xz").write_bytes(b"of yesterday")
    monkeypatch.setattr(machine_code, "COMPILED_FOLDER", tmp_path)
    monkeypatch.setattr(driver, "find_nvcc", lambda: "nvcc")
    ptx = b"// by nvcc\n.version 9.0\n.target sm_75\n.version_of_something 9.0\n"
    compiled: list[tuple[str, str]] = []

    def compile_source(nvcc: str, source: Path, architecture: str) -> bytes:
        compiled.append((source.name, architecture))
        return ptx if architecture == PTX_ARCHITECTURE else architecture.encode()

    monkeypatch.setattr(machine_code, "compile_source", compile_source)
    compile.main()
    assert len(compiled) == len(set(compiled)) == 16
    assert decompress("blend.sm_90.cubin.xz") == b"sm_90"
    assert decompress("frame.compute_75.ptx.xz") == ptx.replace(b".version 9.0", b".version 7.0")
    assert not (tmp_path / "blend.sm_70.cubin.xz").exists()
    assert machine_code.is_shipped(KERNEL_SOURCE)
    manifest = json.loads((tmp_path / machine_code.MANIFEST_NAME).read_text())
    assert manifest["compiler"] == "Cuda compilation tools, release 13.0, V13.0.48"
    assert "blend.sm_90.cubin.xz: 5 bytes" in capsys.readouterr().out


def test_without_nvcc_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine_code, "COMPILED_FOLDER", tmp_path / "compiled")
    monkeypatch.setattr(driver, "find_nvcc", lambda: None)
    with pytest.raises(UnavailableError, match="nvcc is not on the PATH"):
        compile.main()
    assert not (tmp_path / "compiled").exists()


@pytest.mark.slow
@SOURCES
def test_the_ptx_assembles_for_the_oldest_and_the_newest(source: Path, tmp_path: Path) -> None:
    """With the PTX version that it declares."""
    path = tmp_path / "kernels.ptx"
    path.write_bytes(decompress(machine_code.file_name(source, PTX_ARCHITECTURE)))
    for architecture in (CUBIN_ARCHITECTURES[0], CUBIN_ARCHITECTURES[-1]):
        command = [nvcc(), f"-arch={architecture}", "--cubin", "-o", str(tmp_path / "kernels.cubin"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@SOURCES
def test_the_same_nvcc_writes_the_same_bytes(source: Path) -> None:
    manifest = json.loads((machine_code.COMPILED_FOLDER / machine_code.MANIFEST_NAME).read_text())
    if compile.find_release(machine_code.run_nvcc(nvcc(), ["--version"])) != manifest["compiler"]:
        pytest.skip(f"this nvcc is not {manifest['compiler']}")
    for architecture in ("sm_75", "sm_120"):
        code = machine_code.compile_source(nvcc(), source, architecture)
        assert code == decompress(machine_code.file_name(source, architecture))


@pytest.mark.slow
@SOURCES
@pytest.mark.parametrize("architecture", CUBIN_ARCHITECTURES)
def test_no_kernel_spills(architecture: str, source: Path, tmp_path: Path) -> None:
    command = [nvcc(), *NVCC_OPTIONS, f"-arch={architecture}", "--cubin", "-Xptxas", "-v", "-Werror", "all-warnings"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "kernels.cubin"), str(source)], capture_output=True, text=True, timeout=300
    )
    if "Unsupported gpu architecture" in done.stderr or "not defined for option 'gpu-architecture'" in done.stderr:
        pytest.skip(f"this nvcc does not know {architecture}")
    assert done.returncode == 0, done.stderr
    registers = {}
    for name, stack, stores, loads, rest in re.findall(
        r"Function properties for (\w+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads(.*?Used \d+ reg)",
        done.stderr,
        re.DOTALL,
    ):
        assert (stack, stores, loads) == ("0", "0", "0"), f"{name} spills"
        registers[name] = int(rest.split()[-2])
    print(architecture, registers)  # shown with -s, and when it fails
    assert set(registers) == set(host_compiler.kernels(source.name))
    # 64 keep 1,024 threads resident on every architecture (65,536 registers): see the top of blend.cu.
    assert max(registers.values()) <= 64

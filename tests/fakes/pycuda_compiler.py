"""Fake pycuda.compiler: "machine code" that names its kernels; the host compiler's build of the same source runs them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.fakes import gpu as machine
from tests.fakes.pycuda.checks import CompileError
from tests.fakes.pycuda.context import Context

MAGIC = b"\x7fELF fake cubin\n"
SOURCES = sorted((Path(__file__).parents[2] / "engines" / "cuda").glob("*.cu"))
ARCHITECTURE = re.compile(r"sm_\d+[af]?")


class ExecError(OSError):
    """Like pytools.prefork.ExecError: the compiler could not be started."""


def get_nvcc_version(nvcc: str) -> str:
    _start(nvcc)
    return "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.48\n"


def compile(
    source: str,
    nvcc: str = "nvcc",
    options: list[str] | None = None,
    keep: bool = False,
    no_extern_c: bool = False,
    arch: str | None = None,
    code: str | None = None,
    cache_dir: str | bool | None = None,
    include_dirs: list[str] | None = None,
    target: str = "cubin",
) -> bytes:
    """Accepts only the repository's own sources, because only those are compiled for the host."""
    gpu = _start(nvcc)
    if not no_extern_c:
        gpu.report('compile: the source has extern "C" itself and includes headers: no_extern_c belongs there')
    if cache_dir is not False:
        gpu.report("compile: pycuda's own cache is trusted without a check: cache_dir=False belongs there")
    if arch is None:
        arch = "sm_{}{}".format(*Context.get_device().compute_capability())
    if not ARCHITECTURE.fullmatch(arch):
        raise CompileError(f"nvcc compilation failed: {arch} is not an architecture", [nvcc])
    name = next((path.name for path in SOURCES if path.read_text(encoding="utf-8") == source), None)
    if name is None:
        raise CompileError("the fake compiler knows the sources in engines/cuda and nothing else", [nvcc])
    from tests.engines.cuda import host_compiler

    content = {"arch": arch, "kernels": host_compiler.kernels(name)}
    text = json.dumps(content).encode()
    return MAGIC + hashlib.sha256(text).digest() + text


def read(data: bytes) -> dict[str, Any] | None:
    """Returns the content of `compile`'s result; None if it is damaged or anything else."""
    if not data.startswith(MAGIC):
        return None
    digest, text = data[len(MAGIC) :][:32], data[len(MAGIC) + 32 :]
    if hashlib.sha256(text).digest() != digest:
        return None
    content: dict[str, Any] = json.loads(text)
    return content


def _start(nvcc: str) -> machine.FakeGpu:
    gpu = machine.current()
    if not gpu.nvcc:
        raise ExecError(f"error invoking '{nvcc} --version': [Errno 2] No such file or directory: '{nvcc}'")
    return gpu


def fill(module: ModuleType) -> None:
    """Fills the fake module with its names."""
    module.compile = compile  # type: ignore[attr-defined]
    module.get_nvcc_version = get_nvcc_version  # type: ignore[attr-defined]

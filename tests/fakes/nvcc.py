"""Fake nvcc: "machine code" that names its kernels; the host compiler's build of the same source runs them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dni_deploy.errors import UnavailableError
from tests.fakes import gpu as machine
from tests.fakes.machine_code import fake_code

VERSION = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.48\n"
SOURCES = sorted((Path(__file__).parents[2] / "engines" / "cuda").glob("*.cu"))
ARCHITECTURE = re.compile(r"-arch=(sm_\d+[af]?)")


def run_nvcc(nvcc: str, arguments: Sequence[str]) -> str:
    """In place of engines.cuda.machine_code.run_nvcc. Only the repository's own kernels are compiled for the host."""
    gpu = machine.current()
    if not gpu.nvcc:
        raise UnavailableError(f"The CUDA compiler {nvcc} could not be run: [Errno 2] No such file or directory: '{nvcc}'.")
    if list(arguments) == ["--version"]:
        return VERSION
    *options, out, output, source = arguments
    architecture = next((match[1] for match in map(ARCHITECTURE.fullmatch, options) if match), None)
    name = next((path.name for path in SOURCES if path.name == Path(source).name), None)
    if out != "-o" or "--cubin" not in options or architecture is None or name is None:
        raise subprocess.CalledProcessError(1, [nvcc, *arguments], stderr="nvcc fatal   : the fake nvcc does not compile that")
    from tests.engines.cuda import host_compiler

    gpu.compiled.append(architecture)
    Path(output).write_bytes(fake_code(architecture, host_compiler.kernels(name)))
    return ""

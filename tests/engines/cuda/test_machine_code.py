"""Machine code: the kernels compiled by nvcc for every architecture that we name; nothing may spill, and registers are printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.engines.cuda import host_compiler

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100")
OPTIONS = ("-std=c++17", "-fmad=false")
"""As kernels.OPTIONS, which the test below checks: importing that needs pycuda."""


def nvcc() -> str:
    found = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if found is None:
        if os.environ.get("DNI_REQUIRE_GPU") == "1":
            pytest.fail("DNI_REQUIRE_GPU=1 and there is no nvcc")
        pytest.skip("no nvcc here, which compiles the kernels for a GPU")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("source", [host_compiler.SOURCE, host_compiler.FRAME_SOURCE], ids=lambda source: source.stem)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills(architecture: str, source: Path, tmp_path: Path) -> None:
    command = [nvcc(), *OPTIONS, f"-arch={architecture}", "--cubin", "-Xptxas", "-v", "-Werror", "all-warnings"]
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


def test_the_options_are_those_of_the_product(gpu: object) -> None:
    from engines.cuda import kernels

    assert kernels.NVCC_OPTIONS == OPTIONS

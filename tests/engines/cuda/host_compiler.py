"""Host: engines/cuda/blend.cu and frame.cu compiled by the host's compiler, so that their very source runs without a GPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

import engines.cuda

SOURCE = Path(engines.cuda.__file__).parent / "blend.cu"
FRAME_SOURCE = SOURCE.with_name("frame.cu")
SHIM = Path(__file__).parent / "host"
# No fusing but the kernel's own fmaf, as on the device; the kernel reads its arrays through wider types.
OPTIONS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unknown-pragmas")


@cache
def build() -> ctypes.CDLL:
    """The compiled kernels: `host_launch(name, grid, block, args)`. Compiled once per source into the temporary folder.

    Skips the test where there is no host compiler; with DNI_REQUIRE_CXX=1 that is a failure.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        if os.environ.get("DNI_REQUIRE_CXX") == "1":
            pytest.fail("DNI_REQUIRE_CXX=1 and no C++ compiler")
        pytest.skip("no C++ compiler for the host's copy of the kernels")
    sources = [SOURCE, FRAME_SOURCE, *sorted(SHIM.iterdir())]
    key = sha256(b"".join(path.read_bytes() for path in sources) + repr((compiler, OPTIONS)).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"dni-host-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    if not library.exists():
        made = folder / f"{key}.{os.getpid()}.so"
        command = [compiler, *OPTIONS, "-shared", "-fPIC", f"-I{SHIM}", f"-I{SOURCE.parent}", str(SHIM / "launcher.cpp")]
        done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"the host compiler refused the kernels:\n{done.stderr}")
        made.replace(library)
    loaded = ctypes.CDLL(str(library))
    loaded.host_launch.argtypes = [ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_char_p]
    loaded.host_launch.restype = ctypes.c_int
    for name in ("host_argument_bytes", "host_tile"):
        getattr(loaded, name).restype = ctypes.c_ulong
    loaded.host_kernels.restype = ctypes.c_char_p
    loaded.host_kernels.argtypes = [ctypes.c_char_p]
    loaded.host_argument_bytes.argtypes = [ctypes.c_char_p]
    loaded.host_tile.argtypes = [ctypes.c_char_p, ctypes.c_uint]
    return loaded


def kernels(source: str = "blend.cu") -> list[str]:
    """The names of a source's kernels."""
    return build().host_kernels(source.encode()).decode().split()


def launch(name: str, grid: int, block: int, arguments: bytes) -> None:
    """Run a kernel with its one struct. Raises RuntimeError for what a GPU would refuse: name, size of the struct, alignment."""
    library = build()
    expected = library.host_argument_bytes(name.encode())
    if expected and len(arguments) != expected:
        raise RuntimeError(f"{name} takes a struct of {expected} bytes, got {len(arguments)}")
    code = library.host_launch(name.encode(), grid, block, arguments)
    if code:
        raise RuntimeError(f"{name} failed with CUDA error {code}")

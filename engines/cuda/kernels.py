"""Kernels: blend.cu compiled for the GPU at hand, by nvcc through pycuda, once per machine.

The machine code is kept in the cache folder under the hash of all that it depends on. It is our own file or it is not
used: another owner, other writers or a wrong SHA-256 mean compiling again.
"""

from __future__ import annotations

import os
import stat
import struct
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pycuda.compiler
import pycuda.driver as cuda

from dni_deploy.errors import DniError, EngineError, EnvironmentProblem, shown
from dni_deploy.utils.atomic_write import publish_file, write_bytes
from dni_deploy.utils.hardware import cache_folder
from engines.cuda import driver
from engines.cuda.device import Device

SOURCE = Path(__file__).with_name("blend.cu")
OPTIONS = ("-std=c++17", "-fmad=false")
"""No fused operations but those that are written as such, so that the host's compiler gives the same bits."""

BLOCK = (256, 1, 1)
MAX_MEMBERS = 32
LINE = 128
"""As in blend.cu: every weight begins on a multiple of so many numbers."""

BLEND = np.dtype(
    [
        ("out", "u8"),
        ("lines", "u8"),
        ("scale", "u8"),
        ("count", "u8"),
        ("member", "u8", MAX_MEMBERS),
        ("share", "f4", MAX_MEMBERS),
        ("members", "u4"),
        ("padding", "u4"),
    ]
)
FOLD = np.dtype(
    [
        ("live", "u8"),
        ("places", "u8"),
        ("scale", "u8"),
        ("count", "u8"),
        ("member", "u8", MAX_MEMBERS),
        ("share", "f8", MAX_MEMBERS),
        ("members", "u4"),
        ("padding", "u4"),
    ]
)
"""The kernels' only arguments; see blend.cu. Both are: head, members' addresses, shares, tail."""
BY_ROW = np.dtype(
    [
        ("out", "u8"),
        ("lines", "u8"),
        ("scale", "u8"),
        ("count", "u8"),
        ("rows", "u8"),
        ("shares", "u8"),
        ("member", "u8", MAX_MEMBERS),
        ("members", "u4"),
        ("padding", "u4"),
    ]
)
"""The argument of the kernels by row; in that of `fold_by_row`, out and lines are called live and places."""
HEAD, TAIL = struct.Struct("=4Q"), struct.Struct("=2I")
HEAD_BY_ROW = struct.Struct("=6Q")


def short(dtype: np.dtype[Any]) -> str:
    """float32 -> "f32", as in the kernels' names."""
    return f"f{dtype.itemsize * 8}"


def name(member: np.dtype[Any], output: np.dtype[Any], members: int, *, scaled: bool, by_row: bool = False) -> str:
    """The kernel for so many members. By row there is none for just one: that member has the whole of every row, which is a copy."""
    kind, most = "scaled" if scaled else "blend", members if (2 if by_row else 1) <= members <= 4 else "n"
    return f"{kind}{'_by_row' if by_row else ''}_{short(member)}_{short(output)}_{most}"


def tile(member: np.dtype[Any], members: int, *, scaled: bool, by_row: bool = False) -> int:
    """How many numbers one block takes at once; a grid of any size is right, this one leaves each thread one turn."""
    wide = (2 if by_row else 1) <= members <= 2 and not scaled
    return BLOCK[0] * (64 if wide else 32) // int(member.itemsize)


def grid(count: int, numbers: int) -> tuple[int, int]:
    """So many blocks that each has one tile; beyond the largest grid the kernels' loops take the rest."""
    return (min(max(-(-count // numbers), 1), 2**31 - 1), 1)


class Kernels:
    """The functions of blend.cu on one device, by name. Belongs to the device, and is used within `with device:`."""

    def __init__(self, device: Device) -> None:
        key = "blend"
        if key not in device.modules:
            device.modules[key] = cuda.module_from_buffer(machine_code(device.architecture))
        self._module = device.modules[key]

    def function(self, name: str, argument: np.dtype[Any]) -> Any:
        """A kernel for `prepared_async_call(grid, BLOCK, stream, argument)`, which is a numpy.void. Raises EngineError.

        The prepared call takes less than half the time of the plain one, which looks at its arguments anew.
        """
        try:
            found = self._module.get_function(name)
            # Any question loads it. Left to the first launch (CUDA's lazy loading), that one may wait for all running work, and fails in
            # a capture.
            found.get_attribute(cuda.function_attribute.NUM_REGS)
            return found.prepare([f"{argument.itemsize}s"])
        except cuda.Error as error:
            raise EngineError(f"The compiled blend.cu has no kernel {name!r}: {error}.") from error


def machine_code(architecture: str) -> bytes:
    """blend.cu for an architecture such as "sm_90", from the cache or compiled. Raises EnvironmentProblem, EngineError."""
    nvcc = driver.nvcc()
    if nvcc is None:
        raise EnvironmentProblem(
            "The CUDA compiler nvcc is not on the PATH, and the blend kernel is compiled at first use: install the CUDA toolkit "
            "(conda install -c nvidia cuda-nvcc, or cuda-nvcc from NVIDIA's apt repository), or set CUDA_HOME to its folder."
        )
    source = SOURCE.read_text(encoding="utf-8")
    try:
        version = str(pycuda.compiler.get_nvcc_version(nvcc))
        key = sha256("\0".join([source, architecture, version, *OPTIONS]).encode()).hexdigest()
        found = _read(key)
        if found is not None:
            return found
        code = bytes(
            pycuda.compiler.compile(
                source, nvcc=nvcc, options=list(OPTIONS), arch=architecture, no_extern_c=True, cache_dir=False
            )
        )
    except cuda.CompileError as error:
        said = [line for line in str(error.stderr or error.stdout or "").splitlines() if line.strip()]
        raise EngineError(
            f"nvcc could not compile the blend kernel for {architecture}: {shown(said[0]) if said else 'it gave no reason'}. "
            "It needs a C++ compiler beside it, and a version that knows this GPU."
        ) from error
    except OSError as error:
        raise EnvironmentProblem(f"The CUDA compiler {shown(nvcc)} could not be run: {shown(error)}.") from error
    _write(key, code)
    return code


def _path(key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "cuda" / f"{key}.cubin"


def _read(key: str) -> bytes | None:
    """The machine code without the SHA-256 before it, or None where it is absent, damaged or may be somebody else's."""
    path = _path(key)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if hasattr(os, "getuid") and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022):
                return None
            data = file.read()
    except OSError:
        return None
    code = data[32:]
    return code if code and sha256(code).digest() == data[:32] else None


def _write(key: str, code: bytes) -> None:
    """Keep it for the next time; where that cannot be done, it is compiled again then."""
    path = _path(key)
    if path is None:
        return
    with suppress(DniError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with publish_file(path, force=True) as temporary:
            write_bytes(temporary, sha256(code).digest() + code)
            os.chmod(temporary, 0o600)

"""The kernels of blend.cu and frame.cu, compiled for the GPU by nvcc through pycuda, once per machine.

The machine code is kept in the cache folder under the hash of all that it depends on. A file of another owner, with other
writers or with a wrong SHA-256 is not used, and the kernels are compiled again.
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

from dni_deploy.errors import DniError, EngineError, UnavailableError, escape_name
from dni_deploy.utils.atomic_write import write_bytes, write_file_atomically
from dni_deploy.utils.hardware import cache_folder
from engines.cuda import driver
from engines.cuda.device import Device

KERNEL_SOURCE = Path(__file__).with_name("blend.cu")
FRAME_SOURCE = Path(__file__).with_name("frame.cu")
NVCC_OPTIONS = ("-std=c++17", "-fmad=false")
"""No fused operations except those that are written as such, so that the host's compiler gives the same bits."""

THREADS_PER_BLOCK = (256, 1, 1)
MAX_MEMBERS = 32
WEIGHT_ALIGNMENT_FLOATS = 128
"""As in blend.cu: every weight begins on a multiple of this many numbers."""

BLEND_ARGUMENTS = np.dtype(
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
FOLD_ARGUMENTS = np.dtype(
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
PER_TENSOR_ARGUMENTS = np.dtype(
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
"""The argument of the kernels for per-tensor coefficients; `fold_by_row` calls out and lines live and places."""
ARGUMENT_HEAD, ARGUMENT_TAIL = struct.Struct("=4Q"), struct.Struct("=2I")
PER_TENSOR_ARGUMENT_HEAD = struct.Struct("=6Q")


def dtype_suffix(dtype: np.dtype[Any]) -> str:
    """Returns a dtype as in the kernels' names: "f32" for float32."""
    return f"f{dtype.itemsize * 8}"


def kernel_name(member: np.dtype[Any], output: np.dtype[Any], members: int, *, scaled: bool, per_tensor: bool = False) -> str:
    """Returns the name of the kernel for this many members.

    For per-tensor coefficients there is none for a single member: it has the whole of every row, which is a copy.
    """
    kind, most = "scaled" if scaled else "blend", members if (2 if per_tensor else 1) <= members <= 4 else "n"
    return f"{kind}{'_by_row' if per_tensor else ''}_{dtype_suffix(member)}_{dtype_suffix(output)}_{most}"


def compute_tile_size(member: np.dtype[Any], members: int, *, scaled: bool, per_tensor: bool = False) -> int:
    """Returns how many numbers one block takes at once; a grid of any size is right, this one leaves each thread one turn."""
    wide = (2 if per_tensor else 1) <= members <= 2 and not scaled
    return THREADS_PER_BLOCK[0] * (64 if wide else 32) // int(member.itemsize)


def compute_grid(count: int, tile_size: int) -> tuple[int, int]:
    """Returns the grid with one tile per block; beyond the largest grid the kernels' loops take the rest."""
    return (min(max(-(-count // tile_size), 1), 2**31 - 1), 1)


class Kernels:
    """The functions of one source on one device, by name. The device owns the code; the caller holds the device."""

    def __init__(self, device: Device, source: Path = KERNEL_SOURCE) -> None:
        """Loads the machine code, once per device.

        Args:
            device: The device.
            source: KERNEL_SOURCE or FRAME_SOURCE.

        Raises:
            UnavailableError: There is no CUDA compiler.
            EngineError: The kernels do not compile.
        """
        self._source_name = source.name
        if source.name not in device.modules:
            device.modules[source.name] = cuda.module_from_buffer(load_machine_code(device.architecture, source))
        self._module = device.modules[source.name]

    def load_function(self, name: str, argument: np.dtype[Any]) -> Any:
        """Loads a kernel for `prepared_async_call(grid, THREADS_PER_BLOCK, stream, argument)`, where argument is a numpy.void.

        The prepared call takes less than half the time of the plain one, which inspects its arguments every time.

        Args:
            name: Name of the kernel.
            argument: The dtype of its argument.

        Raises:
            EngineError: There is no such kernel.
        """
        try:
            function = self._module.get_function(name)
            # Any query loads it. Left to the first launch (CUDA's lazy loading), that one may wait for all running work, and
            # fails in a capture.
            function.get_attribute(cuda.function_attribute.NUM_REGS)
            return function.prepare([f"{argument.itemsize}s"])
        except cuda.Error as error:
            raise EngineError(f"The compiled {self._source_name} has no kernel {name!r}: {error}.") from error


def load_machine_code(architecture: str, source: Path = KERNEL_SOURCE) -> bytes:
    """Loads a source's machine code for an architecture from the cache, or compiles it.

    Args:
        architecture: Such as "sm_90".
        source: KERNEL_SOURCE or FRAME_SOURCE.

    Returns:
        The machine code (cubin).

    Raises:
        UnavailableError: There is no CUDA compiler, or it cannot be run.
        EngineError: It cannot compile the kernels.
    """
    nvcc = driver.find_nvcc()
    if nvcc is None:
        raise UnavailableError(
            "The CUDA compiler nvcc is not on the PATH, and the GPU kernels are compiled at first use: install the CUDA toolkit "
            "(conda install -c nvidia cuda-nvcc, or cuda-nvcc from NVIDIA's apt repository), or set CUDA_HOME to its folder."
        )
    text = source.read_text(encoding="utf-8")
    try:
        version = str(pycuda.compiler.get_nvcc_version(nvcc))
        key = sha256("\0".join([text, architecture, version, *NVCC_OPTIONS]).encode()).hexdigest()
        cached = _read_cached(key)
        if cached is not None:
            return cached
        code = bytes(
            pycuda.compiler.compile(
                text, nvcc=nvcc, options=list(NVCC_OPTIONS), arch=architecture, no_extern_c=True, cache_dir=False
            )
        )
    except cuda.CompileError as error:
        output = [line for line in str(error.stderr or error.stdout or "").splitlines() if line.strip()]
        reason = escape_name(output[0]) if output else "it gave no reason"
        raise EngineError(
            f"nvcc could not compile {source.name} for {architecture}: {reason}. "
            "It needs a C++ compiler beside it, and a version that knows this GPU."
        ) from error
    except OSError as error:
        raise UnavailableError(f"The CUDA compiler {escape_name(nvcc)} could not be run: {escape_name(error)}.") from error
    _write_cached(key, code)
    return code


def _cache_path(key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "cuda" / f"{key}.cubin"


def _read_cached(key: str) -> bytes | None:
    """Reads the machine code without the SHA-256 before it; None where it is absent, damaged or may be somebody else's."""
    path = _cache_path(key)
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


def _write_cached(key: str, code: bytes) -> None:
    """Keeps the machine code for the next time; where that cannot be done, it is compiled again then."""
    path = _cache_path(key)
    if path is None:
        return
    with suppress(DniError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_file_atomically(path, force=True) as temporary:
            write_bytes(temporary, sha256(code).digest() + code)
            os.chmod(temporary, 0o600)

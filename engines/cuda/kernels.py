"""The kernels of blend.cu and frame.cu: their names, arguments and grids, and how they are loaded."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np

from dni_deploy.errors import EngineError, UnavailableError
from engines.cuda import backend as cuda
from engines.cuda.device import Device
from engines.cuda.machine_code import KERNEL_SOURCE, load_compiled_code, read_shipped_code

log = logging.getLogger(__name__)

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
            UnavailableError: The shipped machine code does not fit, and there is no CUDA compiler.
            EngineError: The kernels do not compile.
        """
        self._source_name = source.name
        if source.name not in device.modules:
            device.modules[source.name] = _load_module(device, source)
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


def _load_module(device: Device, source: Path) -> Any:
    """Loads the shipped machine code of a source, or where the driver takes none of it, what nvcc compiles."""
    refusals = []
    for code in read_shipped_code(device.capability, source):
        try:
            return cuda.module_from_buffer(code)
        except cuda.Error as error:
            log.info("the driver refuses it: %s", error)
            refusals.append(f" The driver said: {error}.")
    try:
        code = load_compiled_code(device.architecture, source)
    except UnavailableError as error:
        raise UnavailableError(f"{error}{''.join(refusals)}") from error
    try:
        return cuda.module_from_buffer(code)
    except cuda.Error as error:
        raise EngineError(f"The driver refuses what nvcc compiled of {source.name}: {error}.") from error

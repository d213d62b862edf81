"""Device launch: what tests/engines/cuda/host_compiler.py does with a kernel, done on the GPU: the same tests then run there.

The struct's addresses are those of arrays on the host. Each of these is copied to the device, at an address with the same last eight bits,
so that misaligned arrays stay so; what the kernel writes is copied back.
"""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.engines.cuda.test_kernels import GUARD

SIZES = {"f32": 4, "f16": 2}
LARGEST_BLOCK = 256
"""The kernels promise the compiler no more threads per block; a GPU refuses more."""


def launch(name: str, grid: int, block: int, arguments: bytes) -> None:
    """As host.launch. Raises the errors of engines.cuda.backend."""
    from engines.cuda import kernels
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer

    by_row, fold = "_by_row" in name, name.startswith("fold")
    kind = kernels.PER_TENSOR_ARGUMENTS if by_row else kernels.FOLD_ARGUMENTS if fold else kernels.BLEND_ARGUMENTS
    struct = np.frombuffer(arguments, kind)[0].copy()
    inputs, outputs = _fold(struct, by_row) if fold else _blend(name, struct, by_row)
    device = Device.open(0)
    with device, ExitStack() as owned:

        def moved(address: int, nbytes: int) -> tuple[Any, int]:
            shift = address % 256
            buffer = Buffer(device, nbytes + 256)
            owned.callback(buffer.free)
            buffer.upload(_at(address, nbytes).copy(), offset=shift)
            return buffer, shift

        back = []
        for place, nbytes in [*inputs, *outputs]:
            address = _get(struct, place)
            buffer, shift = moved(address, nbytes)
            _set(struct, place, buffer.pointer + shift)
            if (place, nbytes) in outputs:
                back.append((address, buffer, shift, nbytes))
        stream = device.create_stream()
        function = kernels.Kernels(device).load_function(name, kind)
        function.prepared_async_call((grid, 1), (min(block, LARGEST_BLOCK), 1, 1), stream, np.void(struct.tobytes()))
        stream.synchronize()
        for address, buffer, shift, nbytes in back:
            result = np.empty(nbytes, np.uint8)
            buffer.download(result, offset=shift)
            _at(address, nbytes)[:] = result
        del stream
    device.close()


Place = tuple[str, int | None]
"""A field of the struct, or one entry of it."""
Regions = list[tuple[Place, int]]


def _blend(name: str, struct: Any, by_row: bool) -> tuple[Regions, Regions]:
    """Inputs and outputs, each with its bytes; behind the output lies the guard, which must come back as it was."""
    kind, member, output, _ = name.replace("_by_row", "").split("_")
    count = int(struct["count"])
    inputs: Regions = [(("member", index), count * SIZES[member]) for index in range(int(struct["members"]))]
    if kind == "scaled":
        lines = -(-count // 128)
        table = _at(int(struct["lines"]), lines * 16).view(np.uint32).reshape(-1, 4)
        inputs += [(("lines", None), lines * 16), (("scale", None), int((table[:, 0] + table[:, 2]).max()) * 4)]
    if by_row:
        inputs += _rows(struct, -(-count // 128), 4)
    return inputs, [(("out", None), (count + GUARD) * SIZES[output])]


def _fold(struct: Any, by_row: bool) -> tuple[Regions, Regions]:
    count, live, where = int(struct["count"]), *(("out", "lines") if by_row else ("live", "places"))
    inputs: Regions = [(("member", index), 5 * count * 8) for index in range(int(struct["members"]))]
    places = _at(int(struct[where]), count * 8).view(np.uint64)
    inputs.append(((where, None), count * 8))
    if by_row:
        inputs += _rows(struct, 5 * count, 8)
    end = int(places.max() >> np.uint64(1)) + (2 if int(places[0]) & 1 else 4)
    return inputs, [((live, None), end), (("scale", None), (count + GUARD) * 4)]


def _rows(struct: Any, count: int, itemsize: int) -> Regions:
    """The numbers of so many rows, and the table with all of these."""
    rows = _at(int(struct["rows"]), count * 4).view(np.uint32)
    return [(("rows", None), count * 4), (("shares", None), (int(rows.max()) + 1) * int(struct["members"]) * itemsize)]


def _get(struct: Any, place: Place) -> int:
    field, index = place
    return int(struct[field] if index is None else struct[field][index])


def _set(struct: Any, place: Place, address: int) -> None:
    field, index = place
    if index is None:
        struct[field] = address
    else:
        struct[field][index] = address


def _at(address: int, nbytes: int) -> NDArray[np.uint8]:
    """The host's memory there, as an array."""
    if nbytes == 0:
        return np.zeros(0, np.uint8)
    return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), np.uint8)

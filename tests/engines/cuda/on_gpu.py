"""On a GPU: the kernels and the blender for real. A program of its own: the other tests have fakes of the CUDA packages.

    python -m tests.engines.cuda.on_gpu [--skip-largest]

Prints a line for each check; an error ends it with a code that is not 0. Where a C++ compiler is at hand, the GPU's numbers must be
the same bits as those of the same source on the host. That is slow for the largest size, which --skip-largest leaves out.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from engines.cuda import cuda_graph
from engines.cuda.device import Device
from engines.cuda.kernels import BLEND_ARGUMENTS, THREADS_PER_BLOCK, Kernels, compute_grid, compute_tile_size, kernel_name
from engines.cuda.memory import Buffer
from tests.engines.cuda import family, test_kernels
from tests.engines.cuda.test_blender import DeviceFamily, close_enough

SIZES = (1, 3, 4, 5, 255, 256, 257, 20_003, 10**6 + 3)


def on_device(device: Device, members: list[NDArray[Any]], shares: list[float], dtype: str, shift: int = 0) -> NDArray[Any]:
    """One launch of the blend kernel; every array begins `shift` numbers behind its memory's begin."""
    size, stored, single = members[0].size, members[0].dtype, np.dtype(dtype)
    held = [Buffer(device, (size + shift) * stored.itemsize) for _ in members]
    out = Buffer(device, (size + shift + 64) * single.itemsize)
    struct, stream = np.zeros((), BLEND_ARGUMENTS), device.create_stream()
    struct["count"], struct["members"], struct["out"] = size, len(members), out.pointer + shift * single.itemsize
    for index, (buffer, member) in enumerate(zip(held, members, strict=True)):
        buffer.upload(np.ascontiguousarray(member), offset=shift * stored.itemsize)
        struct["member"][index] = buffer.pointer + shift * stored.itemsize
    struct["share"][: len(shares)] = shares
    out.upload(np.full(size + shift + 64, 77, single))
    kernel = Kernels(device).load_function(kernel_name(stored, single, len(members), scaled=False), BLEND_ARGUMENTS)
    kernel.prepared_async_call(
        compute_grid(size, compute_tile_size(stored, len(members), scaled=False)), THREADS_PER_BLOCK, stream, struct[()]
    )
    stream.synchronize()
    got = np.empty(size + shift + 64, single)
    out.download(got)
    for buffer in (*held, out):
        buffer.free()
    assert np.all(got[:shift] == 77)
    assert np.all(got[shift + size :] == 77)
    return got[shift : shift + size]


def check_kernels(device: Device, sizes: Sequence[int] = SIZES) -> None:
    same_bits = shutil.which("g++") is not None
    for stored, dtype in test_kernels.PAIRS:
        for count in (1, 2, 3, 4, 5, 8, 16):
            shares = test_kernels.weights(count)
            for size in sizes:
                members = test_kernels.random(size, count, stored)
                for shift in (0, 1):
                    got = on_device(device, members, shares, dtype, shift)
                    error = np.abs(got.astype(np.float64) - test_kernels.truth(members, shares))
                    assert np.all(error <= test_kernels.limit(members, shares, dtype)), (stored, dtype, count, size, shift)
                    if same_bits:
                        host = test_kernels.blend(members, shares, dtype)
                        assert got.tobytes() == host.tobytes(), (stored, dtype, count, size, shift)
        print(f"blend {stored} -> {dtype}: within the bound of float64{', and the host bits' if same_bits else ''}")
    for dtype in test_kernels.TYPES:
        bits = np.random.default_rng(1).integers(0, 2**16, 4 * 5003, np.uint16).view(dtype)
        assert on_device(device, [bits], [1.0], dtype).tobytes() == bits.tobytes()
    print("one-hot: every bit, NaNs too")


def check_blender() -> None:
    for dtype in test_kernels.TYPES:
        for stored in test_kernels.TYPES:
            for count in (2, 4, 7):
                members = family.members(count, dtype=stored)
                device_family = DeviceFamily(family.lowered(dtype), members)
                shares = family.shares(count)
                device_family.blend(shares)
                first = device_family.read()
                close_enough(first, device_family.lowered.recipes.compute_values(blend_float64(members, shares)), count, dtype)
                device_family.blend(np.eye(count)[1])
                for key, value in device_family.lowered.recipes.compute_values(members[1]).items():
                    assert device_family.read()[key].tobytes() == value.astype(dtype).tobytes(), key
                with device_family.device:
                    handle = device_family.streams[0].handle
                    cuda_graph.begin_capture(handle)
                    device_family.blender.blend(shares, device_family.slots[0], device_family.streams[0])
                    graph = cuda_graph.end_capture(handle)
                    graph.launch(handle)
                    device_family.streams[0].synchronize()
                    graph.close()
                assert all(np.array_equal(value, first[key]) for key, value in device_family.read().items())
                device_family.close()
        print(
            f"blender {dtype}: BatchNorms folded, one-hot the member's bytes, A -> B -> A the same bytes, also as a CUDA graph"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-largest", action="store_true", help="leave out the largest size")
    sizes = SIZES[:-1] if parser.parse_args(arguments).skip_largest else SIZES
    device = Device.open()
    print(device.name, device.architecture)
    with device:
        check_kernels(device, sizes)
    device.close()
    check_blender()


if __name__ == "__main__":
    main()

"""Driver: what the NVIDIA driver says, asked through libcuda itself.

No package is needed for it, and nothing else of the GPU road may be touched before: TensorRT's Runtime() crashes the
interpreter where there is no driver.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

CUDA_DRIVER_LIBRARY = "libcuda.so.1"
DEFAULT_CUDA_HOME = "/usr/local/cuda"
"""Where NVIDIA's installers put nvcc, without adding it to the PATH."""


@dataclass(frozen=True)
class Driver:
    """version: the newest CUDA that it serves, (major, minor). devices: each GPU's name and compute capability, in its own order."""

    version: tuple[int, int]
    devices: tuple[tuple[str, tuple[int, int]], ...]


def load_driver_library() -> ctypes.CDLL | None:
    """libcuda, or None where no driver is installed."""
    try:
        return ctypes.CDLL(CUDA_DRIVER_LIBRARY)
    except OSError:
        return None


def query_driver() -> Driver | str:
    """The driver, or one sentence without a full stop on why there is none to talk to."""
    cuda = load_driver_library()
    if cuda is None:
        return f"no NVIDIA driver on this machine ({CUDA_DRIVER_LIBRARY} not found)"
    code = int(cuda.cuInit(0))
    if code:
        return f"the NVIDIA driver is there and cuInit failed with CUDA error {code}"
    count, number = ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDeviceGetCount(ctypes.byref(count))
    cuda.cuDriverGetVersion(ctypes.byref(number))
    devices = []
    for index in range(count.value):
        name, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(0), ctypes.c_int(0)
        cuda.cuDeviceGetName(name, len(name), index)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, index)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, index)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        devices.append((name.value.decode(errors="replace"), (major.value, minor.value)))
    return Driver((number.value // 1000, number.value % 1000 // 10), tuple(devices))


def why_gpu_unavailable() -> str | None:
    """Why no GPU can be used, one sentence without a full stop, or None."""
    answer = query_driver()
    if isinstance(answer, str):
        return answer
    return None if answer.devices else "the NVIDIA driver is there and sees no GPU"


def find_nvcc() -> str | None:
    """The CUDA compiler: "nvcc" where the PATH has it, else its path in the toolkit's usual places, or None."""
    if shutil.which("nvcc"):
        return "nvcc"
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), DEFAULT_CUDA_HOME):
        if home and os.access(Path(home, "bin", "nvcc"), os.X_OK):
            return str(Path(home, "bin", "nvcc"))
    return None

"""The NVIDIA driver, asked through libcuda itself.

It needs no package, and comes before everything else of the GPU backend: TensorRT's Runtime() crashes the interpreter where
there is no driver.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from dni_deploy.errors import EngineError, escape_name
from dni_deploy.utils.install_line import format_install_line

CUDA_DRIVER_LIBRARIES = {"posix": "libcuda.so.1", "nt": "nvcuda.dll"}
"""By os.name."""
DEFAULT_CUDA_HOME = "/usr/local/cuda"
"""Where NVIDIA's installers put nvcc on Linux, without adding it to the PATH; on Windows they set CUDA_PATH."""
CUDA_PACKAGES = {"pycuda": "pycuda", "cuda-bindings": "cuda.bindings"}
"""The packages that the backend can use, the preferred one first, and the names under which they are imported."""
CUDA_PACKAGE_VARIABLE = "DNI_CUDA"
"""The environment variable that names one of them."""


@dataclass(frozen=True)
class Driver:
    """What the driver reports.

    Attributes:
        version: The newest CUDA that it serves, (major, minor).
        devices: Name and compute capability, (major, minor), of each GPU, in the driver's order.
    """

    version: tuple[int, int]
    devices: tuple[tuple[str, tuple[int, int]], ...]


def driver_library_name() -> str:
    """Returns the name of the driver's library on this system."""
    return CUDA_DRIVER_LIBRARIES[os.name]


def load_driver_library() -> ctypes.CDLL | None:
    """Loads libcuda; None where no driver is installed."""
    try:
        return ctypes.CDLL(driver_library_name())
    except OSError:
        return None


def query_driver() -> Driver | str:
    """Asks the driver; gives one sentence without a full stop where there is none to ask."""
    cuda = load_driver_library()
    if cuda is None:
        return f"no NVIDIA driver on this machine ({driver_library_name()} not found)"
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


def query_total_memory(device: int) -> int | None:
    """Asks for the bytes of a GPU's memory, by its number; None where there is no such GPU."""
    cuda, handle, count = load_driver_library(), ctypes.c_int(0), ctypes.c_size_t(0)
    if cuda is None or cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), device):
        return None
    return None if cuda.cuDeviceTotalMem_v2(ctypes.byref(count), handle) else int(count.value)


def why_gpu_unavailable() -> str | None:
    """Tells why no GPU can be used, one sentence without a full stop; None where one can."""
    answer = query_driver()
    if isinstance(answer, str):
        return answer
    return None if answer.devices else "the NVIDIA driver is there and sees no GPU"


def find_nvcc() -> str | None:
    """Finds the CUDA compiler: "nvcc" where the PATH has it, else its path in the toolkit's usual places, or None."""
    if shutil.which("nvcc"):  # on Windows that finds nvcc.exe, too
        return "nvcc"
    name = "nvcc.exe" if os.name == "nt" else "nvcc"
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), DEFAULT_CUDA_HOME):
        path = os.path.join(home or "", "bin", name)
        if home and os.access(path, os.X_OK):
            return path
    return None


def find_cuda_package() -> str | None:
    """Finds the package through which the driver is called, without importing it: a key of CUDA_PACKAGES, or None."""
    chosen = os.environ.get(CUDA_PACKAGE_VARIABLE)
    return next((name for name in CUDA_PACKAGES if chosen in (None, "", name) and _is_installed(CUDA_PACKAGES[name])), None)


def why_no_cuda_package() -> str | None:
    """Tells why there is no such package, without a full stop; None where there is one."""
    if find_cuda_package() is not None:
        return None
    chosen = os.environ.get(CUDA_PACKAGE_VARIABLE)
    if not chosen:
        return f"neither pycuda nor cuda-bindings installed: {format_install_line('gpu')}"
    if chosen in CUDA_PACKAGES:
        return f"{CUDA_PACKAGE_VARIABLE} names {chosen}, which is not installed"
    return f"{CUDA_PACKAGE_VARIABLE} is {escape_name(chosen)!r}, which is neither pycuda nor cuda-bindings"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def require_driver_library() -> ctypes.CDLL:
    """Loads libcuda.

    Raises:
        EngineError: It is gone.
    """
    library = load_driver_library()
    if library is None:
        raise EngineError(f"The NVIDIA driver's library {driver_library_name()} is gone.")
    return library


def call_driver(name: str, *arguments: Any) -> None:
    """Calls a function of libcuda that the backend does not wrap.

    Raises:
        EngineError: The function gave anything but success; the message has the driver's own name for it.
    """
    library = require_driver_library()
    code = int(getattr(library, name)(*arguments))
    if code:
        text = ctypes.c_char_p()
        library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
        said = text.value.decode(errors="replace") if text.value else f"CUDA error {code}"
        raise EngineError(f"{name} failed with {said}.")

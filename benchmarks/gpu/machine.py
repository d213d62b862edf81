"""Describes the GPU, its driver and the package versions for the reader of the figures."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import subprocess
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from dni_deploy._version import __version__
from dni_deploy.utils.hardware import count_cores, cpu_name
from engines.cuda import driver, wheels

REPORTED_PACKAGES = (
    "tensorrt", "tensorrt-rtx", "polygraphy", "cuda-bindings", "pycuda", "torch", "triton", "onnxruntime-gpu", "onnxruntime",
    "onnx", "numpy",
)  # fmt: skip


def describe_machine(device: int = 0) -> dict[str, str]:
    """Describes the machine by name, in the order in which it is shown. The date is UTC."""
    facts: dict[str, str] = {}
    answer = driver.query_driver()
    if isinstance(answer, driver.Driver) and device < len(answer.devices):
        name, capability = answer.devices[device]
        facts["gpu"] = name
        facts["compute capability"] = ".".join(map(str, capability))
        facts["cuda of the driver"] = ".".join(map(str, answer.version))
    facts["driver"] = _query_nvidia_smi("driver_version", device) or "unknown"
    memory = _query_nvidia_smi("memory.total", device)
    if memory:
        facts["gpu memory"] = memory
    facts["cpu"] = f"{cpu_name()}, {count_cores()} cores"
    for package in REPORTED_PACKAGES:
        installed = _package_version(package)
        if installed:
            facts[package] = installed
    facts["python"] = platform.python_version()
    facts["dni-deploy"] = __version__
    facts["date"] = datetime.now(timezone.utc).date().isoformat()
    return facts


def _package_version(package: str) -> str | None:
    for distribution in (package, *(f"{package}-cu{cuda}-bindings" for cuda in wheels.MIN_DRIVER_BRANCH)):
        with suppress(PackageNotFoundError):  # bindings: TensorRT without its package around them
            return version(distribution)
    name = package.replace("-", "_")
    if importlib.util.find_spec(name) is None:
        return None
    try:  # unpacked without package metadata
        module = importlib.import_module(name)
    except ImportError:
        return None
    value = getattr(module, "__version__", None) or getattr(module, "VERSION_TEXT", None)
    return None if value is None else str(value)


def _query_nvidia_smi(field: str, device: int) -> str | None:
    """Queries one field of nvidia-smi; changes nothing."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--id={device}", f"--query-gpu={field}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None

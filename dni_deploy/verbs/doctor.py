"""Doctor: what is installed, which engines can run on this machine, and why not."""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dni_deploy import __version__
from dni_deploy.machine import cache_folder, cores, cpu, memory

PACKAGES = (
    ("numpy", "everything"),
    ("onnx", "everything"),
    ("safetensors", "everything"),
    ("pillow", "pictures"),
    ("onnxruntime", "engine onnxruntime"),
    ("onnxruntime-gpu", "engine onnxruntime-gpu"),
    ("torch", "export"),
    ("onnxscript", "export"),
    ("spandrel", "more architectures"),
    ("matplotlib", "plots"),
    ("tensorrt", "engine tensorrt"),
    ("pycuda", "engine tensorrt"),
    ("polygraphy", "engine tensorrt"),
)
"""Distribution and what it opens."""


@dataclass(frozen=True)
class EngineState:
    """One engine by its `--engine` name: whether it can run here, and one sentence on why."""

    name: str
    runs: bool
    why: str


@dataclass(frozen=True)
class DoctorReport:
    """machine: facts by name. packages: (distribution, version or "", what it opens). advice: pip lines, most useful first."""

    machine: dict[str, str]
    packages: tuple[tuple[str, str, str], ...]
    engines: tuple[EngineState, ...]
    warnings: tuple[str, ...]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["packages"] = {name: found or None for name, found, _ in self.packages}
        return fields


def doctor() -> DoctorReport:
    """Look at this machine; changes nothing and imports no engine into this process.

    onnxruntime is imported in a child process, because a broken install can take the importing process down with it.
    """
    found = {name: _version(name) for name, _ in PACKAGES}
    runtimes = [name for name in ("onnxruntime", "onnxruntime-gpu") if found[name]]
    providers, trouble = _providers() if runtimes else ((), "not installed")
    driver = _driver()
    engines = (
        _onnxruntime(found, providers, trouble),
        EngineState("onnxruntime-gpu", False, f"not in this version of dni-deploy; {driver}"),
        EngineState("tensorrt", False, f"not in this version of dni-deploy; {driver}"),
    )
    warnings = []
    if len(runtimes) == 2:
        warnings.append(
            "Both onnxruntime and onnxruntime-gpu are installed and have overwritten each other's files. Keep one: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'dni-deploy[cpu]'"
        )
    if runtimes and trouble:
        warnings.append(f"{runtimes[0]} is installed and cannot be imported: {trouble}")
    return DoctorReport(
        machine=_machine(driver),
        packages=tuple((name, found[name], opens) for name, opens in PACKAGES),
        engines=engines,
        warnings=tuple(warnings),
        advice=_advice(found),
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _providers() -> tuple[tuple[str, ...], str]:
    """onnxruntime's providers and "", or () and what went wrong."""
    code = "import json, onnxruntime; print(json.dumps(onnxruntime.get_available_providers()))"
    try:
        child = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"{type(error).__name__} while importing it"
    if child.returncode:
        lines = child.stderr.strip().splitlines()
        return (), lines[-1] if lines else f"the import ended with signal {-child.returncode}"
    return tuple(json.loads(child.stdout.strip().splitlines()[-1])), ""


def _onnxruntime(found: dict[str, str], providers: tuple[str, ...], trouble: str) -> EngineState:
    if "CPUExecutionProvider" in providers:
        name = "onnxruntime" if found["onnxruntime"] else "onnxruntime-gpu"
        return EngineState("onnxruntime", True, f"{name} {found[name]} on the CPU, with weights changed in place")
    return EngineState("onnxruntime", False, trouble or "it has no CPU provider")


def _driver() -> str:
    """What the NVIDIA driver says, asked directly: TensorRT's own classes crash where there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine (libcuda.so.1 not found)"
    code = int(cuda.cuInit(0))
    if code:
        return f"the NVIDIA driver is there and cuInit failed with CUDA error {code}"
    count, number = ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDeviceGetCount(ctypes.byref(count))
    cuda.cuDriverGetVersion(ctypes.byref(number))
    return f"NVIDIA driver for CUDA {number.value // 1000}.{number.value % 1000 // 10}, {count.value} device(s)"


def _machine(driver: str) -> dict[str, str]:
    (name, flags), whole = cpu(), memory()
    return {
        "dni-deploy": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "cpu": name,
        "instruction sets": ", ".join(flags) or "none known",
        "cores": str(cores()),
        "memory": f"{whole / 2**30:.1f} GiB" if whole else "unknown",
        "gpu": driver,
        "cache": str(cache_folder() or "none, there is no home folder"),
    }


def _advice(found: dict[str, str]) -> tuple[str, ...]:
    lines = []
    if not found["onnxruntime"] and not found["onnxruntime-gpu"]:
        lines.append("To run bundles on this CPU: pip install 'dni-deploy[cpu]'")
    if not found["torch"] or not found["onnxscript"]:
        lines.append("To export: pip install 'dni-deploy[export]'")
    if not found["matplotlib"]:
        lines.append("For plots: pip install 'dni-deploy[report]'")
    return tuple(lines)

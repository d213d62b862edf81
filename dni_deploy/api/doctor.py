"""Reports what is installed, which engines can run on this machine, and why others cannot."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dni_deploy._version import __version__
from dni_deploy.utils.hardware import cache_folder, count_cores, cpu_name, layout_instruction_sets, total_memory_bytes
from dni_deploy.utils.install_line import format_install_line, format_requirement
from engines.cuda import driver
from engines.cuda.driver import Driver
from engines.cuda.machine_code import choose_architectures
from engines.cuda.wheels import ONNXRUNTIME_CUDA12, TENSORRT_CUDA12
from engines.registry import ENGINES

REPORTED_PACKAGES = (
    ("numpy", "everything"),
    ("onnx", "everything"),
    ("safetensors", "everything"),
    ("click", "the command line"),
    ("rich", "the command line"),
    ("pillow", "images"),
    ("onnxruntime", "engine onnxruntime"),
    ("onnxruntime-gpu", "engines onnxruntime-gpu, onnxruntime"),
    ("tensorrt", "engine tensorrt"),
    ("tensorrt-rtx", "engine tensorrt-rtx"),
    ("polygraphy", "engines tensorrt, tensorrt-rtx"),
    ("cuda-bindings", "engines on a GPU"),
    ("pycuda", "the same, in place of cuda-bindings"),
    ("torch", "export"),
    ("onnxscript", "export"),
    ("scipy", "export, tune, check"),
    ("spandrel", "more architectures"),
    ("av", "video"),
    ("starlette", "serve"),
    ("uvicorn", "serve"),
    ("websockets", "serve"),
    ("python-osc", "alpha by OSC"),
    ("mido", "alpha by MIDI"),
    ("python-rtmidi", "alpha by MIDI"),
    ("scikit-image", "tune"),
    ("matplotlib", "plots"),
    ("imagecodecs", "images of more than 8 bits"),
    ("tifffile", "images of more than 8 bits"),
    ("ipywidgets", "the slider in a notebook"),
    ("vapoursynth", "scripts of VapourSynth"),
    ("ray", "jobs on a Ray cluster"),
    ("grpcio", "Ray clusters at ray://"),
    ("fsspec", "files at addresses"),
    ("s3fs", "files at s3://"),
    ("gcsfs", "files at gs://"),
)
"""Distribution and what it opens."""

PACKAGES_BY_EXTRA: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "export": ("To export", ("torch", "onnxscript", "scipy")),
    "video": ("For video, with Python 3.11 or newer", ("av",)),
    "serve": ("For the live page", ("starlette", "uvicorn", "websockets")),
    "live": ("To set alpha by OSC", ("python-osc",)),
    "midi": ("To set alpha by MIDI", ("mido", "python-rtmidi")),
    "tune": ("To find the best alpha, and alignments", ("scipy", "scikit-image")),
    "report": ("For plots", ("matplotlib",)),
    "deep": ("For images of 16 bits and floats", ("imagecodecs", "tifffile")),
    "notebook": ("For the slider in a notebook", ("ipywidgets",)),
    "ray": ("For jobs on a Ray cluster", ("ray", "grpcio")),
    "spandrel": ("To export 42 more architectures", ("torch", "onnxscript", "spandrel")),
    "cloud": ("For bundles, images and videos at s3:// and gs://", ("fsspec", "s3fs", "gcsfs")),
    "vapoursynth": ("For scripts of VapourSynth, with Python 3.12 or newer", ("vapoursynth",)),
}
"""Extra -> what it is for, and its distributions. Those of the engines are not here: they depend on the GPU."""

EQUIVALENT_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
"""Distributions that bring the same package for one CUDA each."""

MIN_CUDA13_CAPABILITY = (7, 5)
"""The compute capability at which CUDA 13 begins, and with it what pip installs unasked."""


@dataclass(frozen=True)
class EngineState:
    """One engine on this machine.

    Attributes:
        name: The name that `--engine` takes.
        available: Whether it can run here.
        reason: One sentence on why it can or cannot.
    """

    name: str
    available: bool
    reason: str


@dataclass(frozen=True)
class DoctorReport:
    """What `doctor` saw.

    Attributes:
        machine: Facts about this machine by name.
        packages: Distribution, its version or "", and what it is needed for.
        engines: The state of every engine.
        warnings: What is wrong with the installation.
        advice: What to install, most useful first.
    """

    machine: dict[str, str]
    packages: tuple[tuple[str, str, str], ...]
    engines: tuple[EngineState, ...]
    warnings: tuple[str, ...]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        fields = asdict(self)
        fields["packages"] = {name: found or None for name, found, _ in self.packages}
        return fields


def doctor() -> DoctorReport:
    """Inspects this machine. Changes nothing and imports no engine into this process.

    onnxruntime is imported in a child process, because a broken install can take the importing process down with it.
    TensorRT is not imported at all: its version is that of the installed package, and the driver is queried through libcuda
    itself.

    Returns:
        The report.
    """
    versions = {name: _installed_version(name) for name, _ in REPORTED_PACKAGES}
    runtimes = [name for name in ("onnxruntime", "onnxruntime-gpu") if versions[name]]
    providers, import_error = _query_providers() if runtimes else ((), "not installed")
    gpu, nvcc = driver.query_driver(), driver.find_nvcc()
    warnings = []
    if len(runtimes) == 2:
        warnings.append(
            "Both onnxruntime and onnxruntime-gpu are installed and have overwritten each other's files. Keep one: "
            f"pip uninstall -y onnxruntime onnxruntime-gpu && {format_install_line('gpu' if _has_usable_gpu(gpu) else 'cpu')}"
        )
    if runtimes and import_error:
        warnings.append(f"{runtimes[0]} is installed and cannot be imported: {import_error}")
    if isinstance(gpu, Driver) and not nvcc and any(not choose_architectures(capability) for _, capability in gpu.devices):
        warnings.append(
            "nvcc was not found; a GPU here is older than the kernels that are shipped, so nvcc compiles them when they are used "
            "first. Install NVIDIA's CUDA toolkit, of which the compiler alone is enough, or set CUDA_HOME to its folder."
        )
    return DoctorReport(
        machine=_describe_machine(gpu, nvcc),
        packages=tuple((name, versions[name], opens) for name, opens in REPORTED_PACKAGES),
        engines=_list_engines(versions, providers, import_error, gpu),
        warnings=tuple(warnings),
        advice=_make_advice(versions, gpu),
    )


def _installed_version(distribution: str) -> str:
    """Of the installed package, or ""; nothing is imported."""
    for name in (distribution, *EQUIVALENT_PACKAGES.get(distribution, ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _has_usable_gpu(gpu: Driver | str) -> bool:
    return isinstance(gpu, Driver) and bool(gpu.devices)


def _query_providers() -> tuple[tuple[str, ...], str]:
    """Lists onnxruntime's providers with "", or () with what went wrong."""
    code = "import json; from dni_deploy.utils.onnxruntime_library import ort; print(json.dumps(ort.get_available_providers()))"
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


def _list_engines(
    versions: Mapping[str, str], providers: tuple[str, ...], import_error: str, gpu: Driver | str
) -> tuple[EngineState, ...]:
    """Every engine of the list; a reason that was given for one before is not spelled out again."""
    on = f" on {gpu.devices[0][0]}" if isinstance(gpu, Driver) and gpu.devices else ""
    runtime = "onnxruntime" if versions["onnxruntime"] else "onnxruntime-gpu"
    runs = {
        "tensorrt": f"TensorRT {versions['tensorrt']}{on}; each bundle needs a plan: dni-deploy build",
        "tensorrt-rtx": f"TensorRT for RTX {versions['tensorrt-rtx']}{on}; each bundle needs a plan: dni-deploy build",
        "onnxruntime-gpu": f"onnxruntime-gpu {versions['onnxruntime-gpu']}{on}",
        "onnxruntime": f"{runtime} {versions[runtime]} on the CPU, with weights changed in place",
    }
    states: list[EngineState] = []
    engine_by_reason: dict[str, str] = {}
    for name, entry in ENGINES.items():
        reason = entry.unavailable_reason(None)
        if reason is None and name.startswith("onnxruntime"):
            provider = "CUDAExecutionProvider" if name == "onnxruntime-gpu" else "CPUExecutionProvider"
            reason = None if provider in providers else import_error or f"it offers no {provider}"
        if reason is None:
            states.append(EngineState(name, True, runs[name]))
        else:
            states.append(EngineState(name, False, f"as {engine_by_reason[reason]}" if reason in engine_by_reason else reason))
            engine_by_reason.setdefault(reason, name)
    return tuple(states)


def _format_gpu(gpu: Driver | str) -> str:
    """The driver and its GPUs for people."""
    if isinstance(gpu, str):
        return gpu
    names = [f"{name} (compute capability {major}.{minor})" for name, (major, minor) in gpu.devices]
    listed = names if len(names) < 2 else [f"{index}: {name}" for index, name in enumerate(names)]
    return f"{', '.join(listed) or 'none'}; NVIDIA driver for CUDA {gpu.version[0]}.{gpu.version[1]}"


def _describe_machine(gpu: Driver | str, nvcc: str | None) -> dict[str, str]:
    name, flags, whole = cpu_name(), layout_instruction_sets(), total_memory_bytes()
    return {
        "dni-deploy": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "cpu": name,
        "instruction_sets": ", ".join(flags) or "none known",
        "cores": str(count_cores()),
        "memory": f"{whole / 2**30:.1f} GiB" if whole else "unknown",
        "gpu": _format_gpu(gpu),
        "nvcc": "on the PATH" if nvcc == "nvcc" else nvcc or "not found",
        "cache": str(cache_folder() or "none, there is no home folder"),
    }


def _make_advice(versions: Mapping[str, str], gpu: Driver | str) -> tuple[str, ...]:
    lines = []
    if isinstance(gpu, Driver) and gpu.devices:
        lines += _make_gpu_advice(versions, gpu)
    else:
        reason = gpu if isinstance(gpu, str) else "the NVIDIA driver sees none"
        lines.append(f"There is no NVIDIA GPU to use here: {reason}. Bundles run on the CPU.")
    if not versions["onnxruntime"] and not versions["onnxruntime-gpu"]:
        lines.append(f"To run bundles on this CPU: {format_install_line('cpu')}")
    for extra, (purpose, packages) in PACKAGES_BY_EXTRA.items():
        missing = [name for name in packages if not versions[name]]
        if missing:
            lines.append(f"{purpose} ({' and '.join(missing)} missing): {format_install_line(extra)}")
    return tuple(lines)


def _make_gpu_advice(versions: Mapping[str, str], gpu: Driver) -> list[str]:
    """What is missing for the GPU that is there: first TensorRT, then ONNX Runtime."""
    name, capability = gpu.devices[0]
    first = "" if not versions["onnxruntime"] or versions["onnxruntime-gpu"] else "pip uninstall -y onnxruntime && "
    cuda = versions["pycuda"] or versions["cuda-bindings"]
    for_tensorrt, for_onnxruntime, remark = format_requirement("tensorrt"), format_requirement("gpu"), ""
    if gpu.version < (13, 0) or capability < MIN_CUDA13_CAPABILITY:
        for_tensorrt = f"{format_requirement('gpu')} polygraphy {ONNXRUNTIME_CUDA12} {TENSORRT_CUDA12}"
        for_onnxruntime += f" {ONNXRUNTIME_CUDA12}"
        remark = (
            f" (newer packages are for CUDA 13; this driver serves {gpu.version[0]}.{gpu.version[1]}, this GPU has compute "
            f"capability {capability[0]}.{capability[1]})"
        )
    lines = []
    if not (versions["tensorrt"] and versions["polygraphy"] and cuda):
        lines.append(f"For TensorRT on {name}: {first}pip install {for_tensorrt}{remark}")
        if not versions["tensorrt-rtx"] and not remark:
            lines.append(f"Or TensorRT for RTX, whose plans are built in seconds: {first}{format_install_line('tensorrt-rtx')}")
    if not (versions["onnxruntime-gpu"] and cuda):
        lines.append(f"For ONNX Runtime on {name}: {first}pip install {for_onnxruntime}{remark}")
    return lines

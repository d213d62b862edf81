"""Facts about this computer, as far as engines and benchmarks depend on them."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

LAYOUT_FLAGS = ("avx2", "avx512f", "avx512_vnni", "amx_tile", "neon", "asimd")
"""The instruction sets that change how ONNX Runtime lays weights out."""

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""The instruction sets that multiply in bfloat16; one of them is enough."""


@lru_cache(maxsize=1)
def _read_cpu_fields() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # only Linux has it
        return {}
    fields = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in fields}


def _read_cpu_flags() -> list[str]:
    fields = _read_cpu_fields()
    return (fields.get("flags") or fields.get("Features") or "").split()


def cpu_name() -> str:
    """Returns the name of the processor, or that of its architecture where the system does not tell."""
    return _read_cpu_fields().get("model name") or platform.processor() or platform.machine()


def layout_instruction_sets() -> tuple[str, ...]:
    """Returns those of LAYOUT_FLAGS that the processor has (on Linux; elsewhere none)."""
    flags = _read_cpu_flags()
    return tuple(flag for flag in LAYOUT_FLAGS if flag in flags)


def has_bfloat16() -> bool:
    """Tells whether the processor multiplies in bfloat16 (on Linux on x86; elsewhere False)."""
    return not BFLOAT16_FLAGS.isdisjoint(_read_cpu_flags())


def count_cores() -> int:
    """Counts the logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory_bytes() -> int | None:
    """Returns the physical memory in bytes, or None where the system does not tell, as on Windows."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def measure_resident_bytes() -> int | None:
    """Measures this process's resident memory in bytes; None where there is no /proc, as on macOS and Windows."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def cache_folder() -> Path | None:
    """Returns $DNI_CACHE, or `dni-deploy` in the system's cache folder; None where there is no home folder for one."""
    return _find_user_folder("DNI_CACHE", "LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", ".cache")


def config_folder() -> Path | None:
    """Returns $DNI_CONFIG, or `dni-deploy` in the system's configuration folder; None where there is no home folder for one."""
    return _find_user_folder("DNI_CONFIG", "APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME", ".config")


def _find_user_folder(override: str, parent: str, folder: str) -> Path | None:
    """The folder that a variable names, else ours in the one that the system's variable names, else in one of the home folder."""
    given, system = os.environ.get(override), os.environ.get(parent)
    if given:
        return Path(given)
    if system and os.path.isabs(system):  # the XDG specification: a relative path is to be ignored
        return Path(system) / "dni-deploy"
    try:
        return Path.home() / folder / "dni-deploy"
    except RuntimeError:
        return None

"""Machine: what this computer is, as far as engines and benchmarks depend on it."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

LAYOUT_FLAGS = ("avx2", "avx512f", "avx512_vnni", "amx_tile", "neon", "asimd")
"""The instruction sets that change how ONNX Runtime lays weights out."""


@lru_cache(maxsize=1)
def read_cpu_info() -> tuple[str, tuple[str, ...]]:
    """The processor's name, and those of LAYOUT_FLAGS that it has (Linux; elsewhere the name alone)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), ()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    known = {key.strip(): value.strip() for key, value in fields.items()}
    have = set((known.get("flags") or known.get("Features") or "").split())
    return known.get("model name") or platform.machine(), tuple(flag for flag in LAYOUT_FLAGS if flag in have)


def count_cores() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory_bytes() -> int | None:
    """Physical memory in bytes, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def measure_resident_bytes() -> int | None:
    """This process's resident memory in bytes (Linux), or None."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def cache_folder() -> Path | None:
    """$DNI_CACHE, or `dni-deploy` in the system's cache folder; None where there is no home to hold one."""
    own = os.environ.get("DNI_CACHE")
    if own:
        return Path(own)
    parent = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    if parent and os.path.isabs(parent):  # the XDG specification: a relative path is to be ignored
        return Path(parent) / "dni-deploy"
    try:
        return Path.home() / ".cache" / "dni-deploy"
    except RuntimeError:
        return None

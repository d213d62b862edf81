"""Asks a resolver whether everything that we need has wheels for each system and Python; nothing is installed.

python .ci/check_wheels.py [EXTRAS ...]

EXTRAS are those of pyproject.toml, several with commas (default: the demo's, then `all`, then `gpu`), at the versions of
constraints.txt. Prints a line for each combination, and exits with 1 if one has no solution. The resolver is uv's (`pip install
uv`): pip resolves for another system, too, but evaluates the markers of packages for the one that it runs on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux ARM": "aarch64-manylinux_2_28",
    "Windows x86-64": "x86_64-pc-windows-msvc",
    "macOS ARM": "aarch64-apple-darwin",
}
MACOS_VERSION = "14.0"
"""The oldest for which ONNX Runtime has wheels."""

DEFAULT_EXTRAS = ("cpu,report,serve", "all", "gpu")
NVIDIA_PLATFORMS = ("Linux x86-64", "Windows x86-64")
"""The systems for which onnxruntime-gpu has wheels with CUDA."""


def resolve(extras: str, platform: str, python: str) -> str:
    """Resolves some extras for a system.

    Args:
        extras: Names, with commas.
        platform: As uv calls it.
        python: Such as "3.12".

    Returns:
        "" where every package has a wheel; else the resolver's reason.
    """
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--quiet",
        "--no-header",
        "-c",
        "constraints.txt",
    ]
    command += ["--only-binary", ":all:", "--python-platform", platform, "--python-version", python]
    for extra in extras.split(","):
        command += ["--extra", extra]
    variables = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS_VERSION}
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=variables)
    return "" if child.returncode == 0 else " ".join(child.stderr.split())[-400:]


def main(names: list[str]) -> int:
    """Prints one line for each combination."""
    failed = 0
    for extras in names or DEFAULT_EXTRAS:
        for system, platform in PLATFORMS.items():
            if extras == "gpu" and system not in NVIDIA_PLATFORMS:
                continue
            for python in PYTHONS:
                problem = resolve(extras, platform, python)
                failed += bool(problem)
                print(f"{extras:18} {system:15} {python:5} {problem or 'wheels'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Writes the result of a benchmark as JSON, atomically to a file or to stdout."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.hardware import count_cores, cpu_name


def write_result(output: str | os.PathLike[str], result: Mapping[str, Any]) -> None:
    """Writes the result to the path `output`, or to stdout for "-"; ValueError for NaN and infinities, which JSON lacks."""
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if os.fspath(output) == "-":
        print(text, end="")
    else:
        write_bytes_atomically(output, text.encode(), force=True)


def describe_run(folder: Path) -> dict[str, Any]:
    """Describes on what a benchmark ran: the first fields of its result, with the commit of the working tree `folder`."""
    return {"schema": 1, "commit": describe_commit(folder), "cpu": cpu_name(), "cores": count_cores()}


def describe_commit(folder: Path) -> str:
    """Returns the abbreviated commit, with "-dirty" if the working tree differs; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()

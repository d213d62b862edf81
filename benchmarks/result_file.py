"""Result file: what a benchmark found, as JSON in a file that appears whole, or on stdout."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dni_deploy.utils.atomic_write import write_bytes_atomically


def write_result(output: str | os.PathLike[str], result: Mapping[str, Any]) -> None:
    """output: a path, whose file is replaced, or "-" for stdout. Raises ValueError for NaN and infinities, which JSON does not have."""
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if os.fspath(output) == "-":
        print(text, end="")
    else:
        write_bytes_atomically(output, text.encode(), force=True)


def describe_commit(folder: Path) -> str:
    """The commit's first digits, with a mark where the working tree differs from it; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()

"""Commit: what is measured, as git tells it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def describe_commit(folder: Path) -> str:
    """The commit's first digits, with a mark where the working tree differs from it; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()

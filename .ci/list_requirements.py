"""Prints what running a bundle on the CPU requires, one requirement a line: at the lowest version that pyproject.toml allows, or any.

python .ci/list_requirements.py oldest | newest
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def list_requirements(text: str, which: str) -> list[str]:
    """Lists the packages of `dependencies` and of the extra `cpu`.

    Args:
        text: pyproject.toml; its lists are read by a pattern, because Python 3.10 has no tomllib.
        which: "oldest" or "newest".

    Returns:
        Such as ["numpy==1.26"], or for "newest" the requirements as they are.
    """
    requirements: list[str] = []
    for name in ("dependencies", "cpu"):
        listed = re.search(rf"^{name} = \[(.*?)\]", text, re.DOTALL | re.MULTILINE)
        assert listed is not None
        requirements += re.findall(r'"([^"]+)"', listed[1])
    return [requirement.replace(">=", "==") for requirement in requirements] if which == "oldest" else requirements


if __name__ == "__main__":
    print("\n".join(list_requirements(Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8"), sys.argv[1])))

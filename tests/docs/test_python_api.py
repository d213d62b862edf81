"""docs/python-api.md holds every public name, and is what the docstrings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dni_deploy

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python-api.md"


@pytest.mark.parametrize("name", [name for name in dni_deploy.__all__ if name != "__version__"])
def test_every_public_name_is_documented(name: str) -> None:
    _, heading, rest = PAGE.read_text(encoding="utf-8").partition(f"\n### {name}\n")
    assert heading
    assert rest.partition("\n### ")[0].strip(), "a heading without a word"


def test_the_python_reference_is_up_to_date() -> None:
    child = subprocess.run(
        [sys.executable, "docs/generate_python_api.py", "--check"], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert child.returncode == 0, child.stdout + child.stderr

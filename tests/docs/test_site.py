"""The documentation site builds without a warning, and has an anchor for every public name.

Skipped without DNI_SPHINX, a folder made by `pip install --target FOLDER sphinx furo myst-parser`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dni_deploy

ROOT = Path(__file__).parents[2]
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem != "index")
NAMES = [name for name in dni_deploy.__all__ if name != "__version__"]


@pytest.mark.parametrize("page", PAGES)
def test_each_page_is_in_the_index(page: str) -> None:
    assert re.search(rf"^{page}$", INDEX, re.M)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    tools = os.environ.get("DNI_SPHINX")
    if tools is None:
        pytest.skip("DNI_SPHINX names no folder with Sphinx")
    paths = os.pathsep.join([str(ROOT), tools, os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        [sys.executable, "docs/build_site.py", str(tmp_path / "site"), "--no-live"],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert child.returncode == 0, child.stderr
    assert "WARNING" not in child.stderr
    assert 'url=docs/index.html"' in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    reference = (tmp_path / "site" / "docs" / "python-api.html").read_text(encoding="utf-8")
    anchors = set(re.findall(r'id="dni_deploy\.(\w+)"', reference))
    assert [name for name in NAMES if name not in anchors] == []

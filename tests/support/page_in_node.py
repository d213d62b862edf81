"""Runs the modules of a site's page in Node.js, without a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import dni_deploy.website

PAGE = Path(dni_deploy.website.__file__).parent / "page"
PRELUDE = """
import { readFileSync } from "node:fs";
const request = JSON.parse(readFileSync(0, "utf8"));
const answer = value => console.log(JSON.stringify(value));
"""


def run_in_node(folder: Path, imports: str, script: str, request: object) -> Any:
    """Runs a script with the page's modules.

    Args:
        folder: An empty folder.
        imports: What the script imports, such as 'import { planTiles } from "./tiling.js";'.
        script: Reads `request` and calls `answer` with its result.
        request: Any JSON.

    Returns:
        The answer.
    """
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    for module in PAGE.glob("*.js"):
        shutil.copy(module, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "run.js").write_text(imports + PRELUDE + script)
    done = subprocess.run(
        [node, "run.js"], cwd=folder, input=json.dumps(request), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

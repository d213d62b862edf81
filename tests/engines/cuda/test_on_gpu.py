"""On a GPU: the same checks as on the host, on the machine's own GPU, in a process without fakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs_gpu import need_gpu


@pytest.mark.gpu
def test_kernels_and_blender_on_this_gpu() -> None:
    need_gpu()
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.cuda.on_gpu"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=600,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr

"""The tests that need a GPU, run on the fakes, so that they run at all when there is one for an hour."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines.cuda import driver

ROOT = Path(__file__).parents[2]


def run_gpu_tests(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_what_waits_for_a_gpu_passes_on_the_stand_ins() -> None:
    done = run_gpu_tests("-k", "not million", DNI_FAKE_GPU="1", DNI_REQUIRE_GPU="1")
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


@pytest.mark.slow
def test_without_a_gpu_they_fail_where_one_is_demanded() -> None:
    if driver.why_gpu_unavailable() is None:
        pytest.skip("there is a GPU here")
    done = run_gpu_tests("-k", "sign_of_zero or all_memory", DNI_REQUIRE_GPU="1")
    assert done.returncode == 1
    assert "passed" not in done.stdout
    assert "no NVIDIA driver" in done.stdout

"""Rehearsal: the tests that need a GPU, on the stand-ins, so that they run at all when there is one for an hour."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def rehearse(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_what_waits_for_a_gpu_passes_on_the_stand_ins() -> None:
    done = rehearse(DNI_REHEARSAL="1", DNI_REQUIRE_GPU="1")
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_without_a_gpu_they_are_skipped_and_with_the_demand_for_one_they_fail() -> None:
    from engines.cuda import driver

    if driver.obstacle() is None:
        pytest.skip("there is a GPU here")
    few = ("-k", "sign_of_zero or all_memory")
    skipped = rehearse(*few, DNI_REQUIRE_GPU="0")
    assert skipped.returncode == 0
    assert "passed" not in skipped.stdout
    failed = rehearse(*few, DNI_REQUIRE_GPU="1")
    assert failed.returncode == 1
    assert "no NVIDIA driver" in failed.stdout

"""A run into a folder is killed at random moments and resumed: every output once, the bytes of an undisturbed run, nothing left."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.api.run import RunReport, run
from dni_deploy.api.status import status
from dni_deploy.imaging.image_tasks import ImageFileOptions
from dni_deploy.jobs.job_folder import JOB_FOLDER_NAME
from dni_deploy.jobs.shard import JobOptions
from tests.support.frame_session import Dimmer, run_over

KILLS = int(os.environ.get("DNI_KILLS", "5"))
IMAGES = 300
MAX_SECONDS_TO_KILL = 0.08
"""After the first row of a run; of every fourth run, after it was started."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are of POSIX"),
]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run_over(monkeypatch, Dimmer((1.0, 0.0)))
    for number in range(IMAGES):
        path = tmp_path / f"in/{number % 3}/{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "in"


def do_job(source: Path, output: Path, shard: str | None = None) -> RunReport:
    job = JobOptions(shard=shard)
    return run("x.dni", source, output, 0.5, file_options=ImageFileOptions(recursive=True), job=job)


def start(source: Path, output: Path, shard: str | None = None) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=do_job, args=(source, output, shard))
    process.start()
    return process


def wait_for_row(process: multiprocessing.Process, job: Path, known: int) -> None:
    while process.is_alive() and len(list(job.glob("done-*.jsonl"))) == known:
        time.sleep(0.001)


def kill(process: multiprocessing.Process) -> bool:
    """Kills a process; returns whether it was still at work."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def read_tree(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and JOB_FOLDER_NAME not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_run_that_is_killed_at_random_moments_is_resumed(source: Path, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    do_job(source, tmp_path / "whole")
    expected = read_tree(tmp_path / "whole")
    assert len(expected) == IMAGES
    kills = 0
    for _ in range(10 * KILLS):
        job = tmp_path / "out" / JOB_FOLDER_NAME
        known = len(list(job.glob("done-*.jsonl")))
        process = start(source, tmp_path / "out")
        if kills % 4:
            wait_for_row(process, job, known)
        time.sleep(moments.uniform(0, MAX_SECONDS_TO_KILL))
        kills += kill(process)
        found = {name: data for name, data in read_tree(tmp_path / "out").items() if not Path(name).name.startswith(".")}
        assert found.items() <= expected.items()  # whole at every moment
        if len(found) == IMAGES or kills == KILLS:
            break
    report = do_job(source, tmp_path / "out")
    assert len(report.images) + len(report.skipped.get("done", ())) == IMAGES
    assert read_tree(tmp_path / "out") == expected  # no temporary file, either
    assert not list((tmp_path / "out").rglob(".*.part*"))
    (state,) = status(tmp_path / "out")
    assert (state.state, state.done, state.total, state.failures) == ("finished", IMAGES, IMAGES, ())
    print(f"{kills} kills, {len(report.images)} images after the last one")


def test_shards_at_once_of_which_one_is_killed_are_joined(source: Path, tmp_path: Path) -> None:
    do_job(source, tmp_path / "whole")
    shards = [start(source, tmp_path / "out", f"{number}/4") for number in (1, 2, 3, 4, 4)]  # one of them twice
    time.sleep(0.1)
    kill(shards[1])
    for shard in shards:
        shard.join()
    again = start(source, tmp_path / "out", "2/4")
    again.join()
    assert [shard.exitcode for shard in (shards[0], *shards[2:], again)] == [0] * 5
    assert len(do_job(source, tmp_path / "out", "join").skipped["done"]) == IMAGES
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "whole")

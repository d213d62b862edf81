"""Kills workers, nodes and the driver of jobs on a Ray cluster, resumes them, and compares with one process that was left alone.

    python -m benchmarks.cluster.kills                     into benchmarks/results/cluster_kills.json
    python -m benchmarks.cluster.kills --kills 3 -o -      printed only

The jobs are 200 pictures, and a film of 12 segments, on two nodes of this machine. SIGKILL comes when a random part of the job is
done. After a worker or a node is gone, the job has to end by itself; after the driver, the same command is given again. In the end,
all files have to be those of one process, with nothing beside them.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.cluster.local_nodes import LocalNodes, start_nodes
from benchmarks.result_file import describe_run, write_result
from benchmarks.samples import ROOT, write_identity_bundle, write_video
from dni_deploy.imaging.image_file import ImageFile, write_image

RESULT_PATH = ROOT / "benchmarks" / "results" / "cluster_kills.json"
PICTURES, PICTURE_SIDE_PX = 200, 384
SEGMENTS, SEGMENT_FRAMES = 12, 25
VICTIMS = ("worker", "node", "driver")
TIMEOUT_S = 240.0
TEMPORARY_NAME = re.compile(r"\.part(\.|$)")


@dataclass(frozen=True)
class Job:
    """A command whose outputs are compared.

    Attributes:
        name: Its name in the result.
        make_arguments: Makes the arguments of the program for a folder of outputs.
        resume: The arguments with which it goes on.
        count_done: Counts the units that are done.
        units: Number of all units.
    """

    name: str
    make_arguments: Callable[[Path], list[str]]
    resume: tuple[str, ...]
    count_done: Callable[[Path], int]
    units: int

    def start(self, folder: Path, *more: str) -> subprocess.Popen[bytes]:
        """Starts it in a process of its own."""
        command = [sys.executable, "-m", "dni_deploy", *self.make_arguments(folder), *more, "-q"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def make_jobs(sources: Path) -> list[Job]:
    """Writes the sources and returns the jobs."""
    bundle = sources / "identity.dni"
    write_identity_bundle(bundle)
    generator = np.random.default_rng(0)
    (sources / "pictures").mkdir()
    for number in range(PICTURES):
        pixels = generator.integers(0, 256, (PICTURE_SIDE_PX, PICTURE_SIDE_PX, 3), dtype=np.uint8)
        write_image(sources / "pictures" / f"{number:03d}.png", ImageFile(pixels))
    write_video(sources / "film.mp4", 480, 272, 25, SEGMENTS * SEGMENT_FRAMES)
    common = ["--engine", "onnxruntime", "--threads", "1"]

    def run_arguments(folder: Path) -> list[str]:
        return ["run", f"{bundle}", f"{sources / 'pictures'}", "-o", f"{folder / 'out'}", "--alpha", "0.5", *common]

    def video_arguments(folder: Path) -> list[str]:
        alpha = ["--alpha", "sine(period=1.7s, from=same, to=dark)", "--alpha-log", f"{folder / 'film.jsonl'}"]
        encoder = ["--preset", "ultrafast", "--segment", str(SEGMENT_FRAMES)]
        return ["video", f"{bundle}", f"{sources / 'film.mp4'}", "-o", f"{folder / 'film.mp4'}", *alpha, *encoder, *common]

    return [
        Job("pictures", run_arguments, ("--resume",), lambda folder: len(list(folder.glob("out/*.png"))), PICTURES),
        Job("film", video_arguments, (), lambda folder: len(list(folder.glob("*.dni-part/*.segment"))), SEGMENTS),
    ]


def read_files(folder: Path) -> dict[str, bytes]:
    """Reads the outputs below a folder: all files but those of the job of pictures, which stays for `status`."""
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (path.parent.name != ".dni-job" or TEMPORARY_NAME.search(path.name))
    }


def kill(victim: str, nodes: LocalNodes, driver: subprocess.Popen[bytes], generator: random.Random) -> None:
    """Kills a worker, a node or the driver."""
    workers = nodes.find_workers()
    if victim == "driver":
        driver.kill()
    elif victim == "node":
        nodes.kill_node()
    elif workers:
        os.kill(generator.choice(workers), 9)


def wait(process: subprocess.Popen[bytes]) -> int:
    """Waits for a process; prints what it says if it fails."""
    try:
        _, message = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        _, message = process.communicate()
        message += b" (not finished in time)"
    if process.returncode:
        click.echo(f"exit code {process.returncode}: {message.decode(errors='replace')[-600:]}", err=True)
    return process.returncode


def run_and_kill(job: Job, victim: str, nodes: LocalNodes, folder: Path, generator: random.Random) -> dict[str, Any]:
    """Runs a job on the cluster, kills, resumes if that is needed, and describes the end."""
    at = generator.randrange(job.units)
    driver = job.start(folder, "--ray", nodes.address)
    give_up_at = time.monotonic() + TIMEOUT_S
    while driver.poll() is None and job.count_done(folder) < at and time.monotonic() < give_up_at:
        time.sleep(0.01)
    is_killed = driver.poll() is None
    done = job.count_done(folder)
    kill(victim, nodes, driver, generator)
    if victim != "driver":
        return {"code": wait(driver), "done": done, "is_killed": is_killed}
    driver.communicate()
    again = job.start(folder, *job.resume, "--ray", nodes.address) if is_killed else driver
    return {"code": wait(again), "done": done, "is_killed": is_killed}


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--kills", default=20, show_default=True, help="Number of kills of each kind in each job.")
@click.option("--only", type=click.Choice(["pictures", "film"]), help="One of the jobs.")
@click.option("--victim", "victims", type=click.Choice(VICTIMS), multiple=True, default=VICTIMS, help="What is killed.")
@click.option("-o", "--output", default=str(RESULT_PATH), show_default=True, help="JSON file to write, or - for stdout.")
def main(kills: int, only: str | None, victims: tuple[str, ...], output: str) -> None:
    """Kills, resumes and compares."""
    generator = random.Random(kills)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, start_nodes(2) as nodes:
        for job in make_jobs(Path(name)):
            if only not in (None, job.name):
                continue
            whole = Path(name, f"{job.name}-whole")
            whole.mkdir()
            assert wait(job.start(whole)) == 0
            expected = read_files(whole)
            for victim in victims:
                counts = {"kills": 0, "byte-equal": 0, "exit code 0": 0}
                while counts["kills"] < kills:
                    folder = Path(name, "run")
                    folder.mkdir()
                    end = run_and_kill(job, victim, nodes, folder, generator)
                    found = read_files(folder)
                    if end["is_killed"]:
                        counts["kills"] += 1
                        counts["exit code 0"] += end["code"] == 0
                        counts["byte-equal"] += found == expected
                    if found != expected:
                        wrong = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
                        click.echo(f"{job.name}, {victim} killed at {end['done']}: differs in {wrong[:5]}", err=True)
                    shutil.rmtree(folder)
                results[f"{job.name}, {victim}"] = counts
                click.echo(f"{job.name}, {victim}: {counts}", err=True)
    write_result(output, {**describe_run(ROOT), "pictures": PICTURES, "segments": SEGMENTS, **results})


if __name__ == "__main__":
    main()

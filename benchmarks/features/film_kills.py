"""Kills a job of two films with SIGKILL at random points, resumes it, and compares with a run that was left alone.

    python -m benchmarks.features.film_kills                     into benchmarks/results/film_kills.json
    python -m benchmarks.features.film_kills --kills 5 -o -      printed only

The films have sound, alpha changes at every frame and is logged. A kill comes at any time from the first job folder to the second
output. After each kill, every output has to be absent or complete; after the resumed run, all files have to be the bytes of the
run that was left alone, with nothing beside them.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import click
import numpy as np

from benchmarks.result_file import describe_run, write_result
from benchmarks.samples import ROOT, write_identity_bundle, write_video
from dni_deploy.api.video import video
from dni_deploy.errors import UsageError
from dni_deploy.video_io.encoder import EncoderOptions
from dni_deploy.video_io.resume import job_folder_path

RESULT_PATH = ROOT / "benchmarks" / "results" / "film_kills.json"
FILMS = ("first.mp4", "second.mkv")
FRAMES = 60
ALPHA = "sine(period=1.7s, from=same, to=dark)"
ENCODER_OPTIONS = EncoderOptions(preset="ultrafast", segment_frames=7)
START_TIMEOUT_S = 120.0

PROCESSES = multiprocessing.get_context("forkserver")
"""Starts processes that have imported everything already, so that a kill comes while a job works and not while it imports."""


def write_film(path: Path) -> None:
    """Writes a film with sound."""
    plain = path.with_name("plain.mp4")
    write_video(plain, 192, 108, 30, FRAMES)
    with av.open(str(plain)) as source, av.open(str(path), "w") as output:
        pictures = output.add_stream_from_template(source.streams.video[0])
        voice: Any = output.add_stream("aac", rate=48000, layout="mono")
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = pictures
                output.mux(packet)
        for start in range(0, 48000 * FRAMES // 30, 1024):
            wave = (0.3 * np.sin(np.arange(start, start + 1024) / 40)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            output.mux(voice.encode(frame))
        output.mux(voice.encode(None))
    plain.unlink()


def run_job(sources: Path, outputs: Path) -> None:
    """Makes the films, one after the other. One that is there already is not replaced, which is an error of its command."""
    for name in FILMS:
        output = outputs / name
        was_there = output.exists()
        try:
            log = output.with_suffix(".jsonl")
            video(sources / "identity.dni", sources / name, output, ALPHA, encoder=ENCODER_OPTIONS, alpha_log=log)
        except UsageError:
            if not was_there:
                raise


def start_job(sources: Path, outputs: Path) -> Any:
    """Starts the job in a process of its own."""
    child = PROCESSES.Process(target=run_job, args=(sources, outputs), daemon=True)
    child.start()
    return child


def wait_for_start(child: Any, outputs: Path) -> None:
    """Waits until the first job folder appears."""
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while not job_folder_path(outputs / FILMS[0]).exists() and child.is_alive() and time.monotonic() < give_up_at:
        time.sleep(0.001)


def read_files(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder that are no work in progress."""
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file() and entry.name[0] != "."}


def describe_state(outputs: Path) -> str:
    """Says how far a killed job had come."""
    done = sum((outputs / name).exists() for name in FILMS)
    segments = sum(len(list(job_folder_path(outputs / name).glob("*.segment"))) for name in FILMS)
    return f"{done} films done, {'segments of the next' if segments else 'no segment of the next'}"


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--kills", default=100, show_default=True, help="Number of kills.")
@click.option("-o", "--output", default=str(RESULT_PATH), show_default=True, help="JSON file to write, or - for stdout.")
def main(kills: int, output: str) -> None:
    """Kills, resumes and compares."""
    PROCESSES.set_forkserver_preload(["benchmarks.samples", "dni_deploy.api.video", "engines.onnxruntime_cpu.load"])
    generator = random.Random(kills)
    states: Counter[str] = Counter()
    equal = partial = 0
    with tempfile.TemporaryDirectory() as name:
        sources = Path(name)
        for film in FILMS:
            write_film(sources / film)
        write_identity_bundle(sources / "identity.dni")
        (sources / "whole").mkdir()
        child = start_job(sources, sources / "whole")
        wait_for_start(child, sources / "whole")
        started = time.monotonic()
        child.join()
        duration_s = time.monotonic() - started
        whole = read_files(sources / "whole")
        assert len(whole) == 2 * len(FILMS)
        done = 0
        while done < kills:
            outputs = sources / f"run{done}"
            outputs.mkdir(exist_ok=True)
            child = start_job(sources, outputs)
            wait_for_start(child, outputs)
            child.join(generator.uniform(0, 1.2 * duration_s))
            is_killed = child.is_alive()
            child.kill()
            child.join()
            found = read_files(outputs)
            partial += any(found[film] != whole[film] for film in FILMS if film in found)
            if is_killed:
                states[describe_state(outputs)] += 1
                child = start_job(sources, outputs)
                child.join()
                left = sorted(entry.name for entry in outputs.iterdir())
                is_equal = child.exitcode == 0 and read_files(outputs) == whole and left == sorted(whole)
                if not is_equal:
                    click.echo(f"kill {done} left {left}, exit code {child.exitcode}", err=True)
                equal += is_equal
                done += 1
            for entry in outputs.iterdir():
                if entry.is_file():
                    entry.unlink()
    result = {
        **describe_run(ROOT),
        "pyav": av.__version__,
        "frames of a film": FRAMES,
        "frames of a segment": ENCODER_OPTIONS.segment_frames,
        "undisturbed run, seconds": round(duration_s, 3),
        "kills": kills,
        "byte-equal after resuming": equal,
        "partial outputs after a kill": partial,
        "state when killed": dict(sorted(states.items())),
    }
    write_result(output, result)


if __name__ == "__main__":
    main()

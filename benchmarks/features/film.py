"""Time films: the pipeline against plain decoding and encoding, and films whose alpha changes on every frame against steady ones.

    python -m benchmarks.features.film                     into benchmarks/results/film.json
    python -m benchmarks.features.film --rounds 3 -o -     printed only

Opening the engine is not counted. The ways of a comparison run one right after the other in every round, in turns; ratios are
taken round by round, and their median counts.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import click

from benchmarks.commit import described
from benchmarks.result_file import write_result
from benchmarks.samples import ROOT, compact, film, identity
from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.api.video import SEGMENT, video
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.imaging.frames import Frame
from dni_deploy.session.session import Stamped
from dni_deploy.utils.atomic_write import publish_file
from dni_deploy.utils.hardware import cores, cpu
from dni_deploy.video_io import encoder
from dni_deploy.video_io.encoder import Target
from dni_deploy.video_io.mux import check_output, container_format, join
from dni_deploy.video_io.pipeline import Settings, process
from dni_deploy.video_io.resume import open_job
from dni_deploy.video_io.video_file import look

RESULTS = ROOT / "benchmarks" / "results" / "film.json"
ENCODER = encoder.settings("libx264", None, None)
CHANGING = "sine(period=1.7s, from=m0, to=m1)"
STEADY = "m0=0.5, m1=0.5"


def plain(source: Path, output: Path) -> None:
    """Decode and encode with the settings of `dni-deploy video`, frames straight from one to the other."""
    with av.open(str(source)) as read, av.open(str(output), "w") as write:
        taken = read.streams.video[0]
        taken.thread_type = "AUTO"
        made = write.add_stream("libx264", rate=taken.average_rate, options=ENCODER.options)
        made.width, made.height, made.pix_fmt = taken.width, taken.height, "yuv420p"
        made.codec_context.time_base = taken.time_base
        for frame in read.decode(taken):
            frame.pict_type = av.video.frame.PictureType.NONE  # the encoder chooses its own
            write.mux(made.encode(frame))
        write.mux(made.encode(None))


def nothing(source: Path, output: Path) -> None:
    """Our pipeline with an effect that does nothing, from opening the film to the output in its place."""
    stamp = Coefficients(("a",), (1.0,))

    def effect(frame: Frame, seconds: float, number: int) -> Stamped:
        return Stamped(frame, 1, stamp)

    found = look(source)
    target = Target.of(found, 1)
    settings = Settings(ENCODER, target, check_output(output, found, ENCODER, target), SEGMENT)
    with open_job(output, {}, fresh=True) as job:
        process(found, job, effect, settings, 1)
        with publish_file(output, force=True) as temporary:
            join(temporary, container_format(output), job.segments, found, ENCODER, target)
        job.remove()


def timed(way: Callable[[], None]) -> Callable[[], float]:
    """The way, telling its seconds."""

    def run() -> float:
        started = time.perf_counter()
        way()
        return time.perf_counter() - started

    return run


def compared(ways: dict[str, Callable[[], float]], rounds: int, *, over: str) -> dict[str, Any]:
    """ways: each runs once and tells its seconds. One round is not counted.

    Returns the median seconds of each way, and the median, smallest and largest of its ratio to the way `over`.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    load = os.getloadavg()[0]
    names = list(ways)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds = ways[name]()
            if number:
                times[name].append(seconds)
        print(f"round {number} of {rounds}", file=sys.stderr)
    found: dict[str, Any] = {"rounds": rounds, "load_before": round(load, 2), "ways": {}}
    for name, series in times.items():
        ratios = [one / other for one, other in zip(series, times[over], strict=True)]
        found["ways"][name] = {
            "seconds": round(statistics.median(series), 3),
            f"over {over}": [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))],
        }
    return found


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--frames", type=click.IntRange(10), default=240, show_default=True, help="Of each film.")
@click.option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), default=RESULTS)
def main(rounds: int, frames: int, output: Path) -> None:
    """Time films."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large, small, out = folder / "large.mp4", folder / "small.mp4", folder / "out.mp4"
        film(large, 1280, 720, 30, frames)
        film(small, 320, 180, 30, frames // 2)
        identity(folder / "identity.dni")
        compact(folder / "compact.dni", 24, 8, 2)
        same, net = Bundle.open(folder / "identity.dni"), Bundle.open(folder / "compact.dni")
        result = {
            "schema": 1,
            "commit": described(ROOT),
            "cpu": cpu()[0],
            "cores": cores(),
            "pyav": av.__version__,
            "720p": {"frames": frames}
            | compared(
                {
                    "decode and encode": timed(lambda: plain(large, out)),
                    "an effect that does nothing": timed(lambda: nothing(large, out)),
                    "a network that does nothing": lambda: video(same, large, out, "same=1, dark=0", force=True).seconds,
                },
                rounds,
                over="decode and encode",
            ),
            "Compact 24x8, x2, 320x180": {"frames": frames // 2}
            | compared(
                {
                    "steady": lambda: video(net, small, out, STEADY, force=True).seconds,
                    "a change before every frame": lambda: video(net, small, out, CHANGING, force=True).seconds,
                },
                rounds,
                over="steady",
            ),
        }
    write_result(output, result)


if __name__ == "__main__":
    main()

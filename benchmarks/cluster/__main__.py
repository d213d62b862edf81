"""What jobs on many GPUs cost, simulated; and the simulation against a run on several nodes of this machine.

    python -m benchmarks.cluster                          the table, printed
    python -m benchmarks.cluster --storage-gbs 20         with other storage
    python -m benchmarks.cluster --measure                besides, 1 to 4 local Ray nodes, into benchmarks/results/cluster.json

The rates of GPUs are assumptions (150 TFLOP/s in fp16); the CPU's share was measured on this project's two cores: decoding, colors
and conversions of 1080p to 4K 0.17 s a frame, x264 at 4K 0.44 s. Units of the local nodes sleep, so that four nodes fit on two
cores: what is compared is the way of the units, from the queue through Ray to the worker and back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import click

from benchmarks.cluster.simulation import ClusterCost, SimulatedRun, UnitCost, simulate_job
from benchmarks.result_file import describe_run, write_result
from benchmarks.samples import ROOT
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.jobs.unit import UnitResult, UnitRow, WorkerName, run_unit
from dni_deploy.utils.hardware import measure_resident_bytes

RESULT_PATH = ROOT / "benchmarks" / "results" / "cluster.json"
WORKER_COUNTS = (8, 64, 256)
FRAME_HOST_S = 0.17 + 0.44
"""CPU of a frame from 1080p to 4K."""

RUN_FRAMES = 2000
"""Frames of a unit of a film: 8 segments of 250."""

MILLION = 1_000_000
FILM_UNITS = 1000 * 3600 * 24 // RUN_FRAMES


def film_unit(frames_per_s: float, host_s: float = FRAME_HOST_S) -> UnitCost:
    """Returns the cost of a run of segments: 0.45 MB a frame, and half a key-frame distance decoded before it."""
    return UnitCost(RUN_FRAMES / frames_per_s, RUN_FRAMES * host_s, RUN_FRAMES * 0.45, seek_s=1.25)


JOBS = (
    ("1 M pictures, DnCNN, 2 MP, 15 ms", MILLION, UnitCost(0.015, 0.06, 5.5)),
    ("1 M pictures, RRDBNet x4, 0.5 to 8 MP, 117 ms, PNG", MILLION, UnitCost(0.117, 0.5, 12.5)),
    ("1,000 h of 1080p24, Compact x2, 60 frames/s", FILM_UNITS, film_unit(60.0)),
    ("1,000 h of 1080p24, Compact x2, encoded by the GPU", FILM_UNITS, film_unit(60.0, 0.03)),
    ("1,000 h of 1080p24, RRDBNet, 2 frames/s", FILM_UNITS, film_unit(2.0)),
)
"""Name, number of units, and what one takes."""

NODE_COUNTS = (1, 2, 4)
SLEEPS_S = (0.05, 0.2)
UNITS_PER_NODE_S = 12.0
"""Work of each node in the comparison."""


class SleepUnit(NamedTuple):
    """A unit that sleeps."""

    id: str


@dataclass(frozen=True)
class SleepFactory:
    """Opens workers whose units sleep.

    Attributes:
        seconds: So long.
    """

    seconds: float

    def open_worker(self) -> SleepWorker:
        """Opens a worker."""
        return SleepWorker(self.seconds)


class SleepWorker:
    """Sleeps for each unit."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def run_units(self, units: Iterable[SleepUnit]) -> Iterator[UnitRow]:
        """Does units."""
        for unit in units:
            yield run_unit(unit, self._sleep, WorkerName("sleep"))

    def close(self) -> None:
        """Frees nothing."""

    def _sleep(self, unit: SleepUnit) -> UnitResult:
        if self._seconds:
            time.sleep(self._seconds)
        return UnitResult()


def list_sleep_units(count: int) -> list[SleepUnit]:
    """Lists units that sleep."""
    return [SleepUnit(f"unit-{number:07d}") for number in range(count)]


@dataclass(frozen=True)
class MeasuredRun:
    """A run on local nodes.

    Attributes:
        open_s: Seconds until the first worker was open.
        seconds: Seconds from then until the last unit was done.
        driver_s: CPU seconds of the driver in that time.
        unit_s: Seconds of a unit in its worker.
    """

    open_s: float
    seconds: float
    driver_s: float
    unit_s: float


def run_on_nodes(address: str, workers: int, sleep_s: float, count: int) -> MeasuredRun:
    """Runs units that sleep on a cluster that this process is connected to."""
    from dni_deploy.jobs.ray_pool import RayWorkers

    started = time.perf_counter()
    with closing(RayWorkers(SleepFactory(sleep_s), RayOptions(ray=address, workers=workers))) as pool:
        opened, cpu, unit_s, done = time.perf_counter(), time.process_time(), 0.0, 0
        for row in pool.run_units(list_sleep_units(count)):
            unit_s += row.seconds
            done += 1
        assert done == count
        seconds = time.perf_counter() - opened
        return MeasuredRun(opened - started, seconds, time.process_time() - cpu, unit_s / count)


def compare_with_nodes() -> dict[str, Any]:
    """Runs units that sleep on 1 to 4 local nodes and simulates the same; and measures the driver alone."""
    from benchmarks.cluster.local_nodes import start_nodes
    from dni_deploy.jobs.ray_cluster import connect_cluster

    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    with start_nodes(max(NODE_COUNTS)) as nodes, connect_cluster(RayOptions(ray=nodes.address)):
        run_on_nodes(nodes.address, 1, 0.0, 100)
        idle = run_on_nodes(nodes.address, 1, 0.0, 6400)  # about 100 chunks
        chunk_s, driver_s = idle.seconds / 107, idle.driver_s / 107
        result["chunk, ms"], result["driver's CPU for a chunk, ms"] = round(chunk_s * 1e3, 2), round(driver_s * 1e3, 2)
        for sleep_s in SLEEPS_S:
            for workers in NODE_COUNTS:
                count = round(workers * UNITS_PER_NODE_S / sleep_s)
                measured = run_on_nodes(nodes.address, workers, sleep_s, count)
                alone_started = time.perf_counter()
                list(SleepWorker(sleep_s).run_units(list_sleep_units(count // workers)))
                alone_s = time.perf_counter() - alone_started
                cluster = ClusterCost(
                    workers,
                    open_s=0.0,
                    bundle_megabytes=0.0,
                    chunk_s=chunk_s,
                    driver_s=driver_s,
                    death_hours=None,
                    spread=0.0,
                )
                simulated = simulate_job(count, UnitCost(measured.unit_s), cluster)
                rows.append(
                    {
                        "nodes": workers,
                        "unit, ms": round(measured.unit_s * 1e3, 1),
                        "units": count,
                        "opened after, s": round(measured.open_s, 2),
                        "measured, s": round(measured.seconds, 2),
                        "simulated, s": round(simulated.seconds, 2),
                        "simulated / measured": round(simulated.seconds / measured.seconds, 3),
                        "one process with a node's share, s": round(alone_s, 2),
                        "measured / one process": round(measured.seconds / alone_s, 3),
                    }
                )
                click.echo(str(rows[-1]), err=True)
        result["runs"] = rows
        before = measure_resident_bytes() or 0
        for count in (1000, 100_000):
            run_on_nodes(nodes.address, 2, 0.0, count)
            now = measure_resident_bytes() or 0
            result[f"memory of the driver after {count} units, MB more"] = round((now - before) / 1e6, 1)
    return result


def simulate_jobs(storage_gbs: float, cores: float, only: tuple[int, ...] = WORKER_COUNTS) -> list[dict[str, Any]]:
    """Simulates the JOBS; returns rows."""
    rows = []
    for name, count, cost in JOBS:
        for workers in only:
            cluster = ClusterCost(workers, cores=cores, storage_megabytes_s=storage_gbs * 1e3)
            run = simulate_job(count, cost, cluster)
            rows.append({"job": name, "GPUs": workers, "GPU-hours": run.seconds * workers / 3600, **asdict(run)})
            print_run(name, workers, run)
    return rows


def print_run(name: str, workers: int, run: SimulatedRun) -> None:
    """Prints a row of the table."""
    hours, gpu_hours = run.seconds / 3600, run.seconds / 3600 * workers
    click.echo(f"{name:52} {workers:4d} GPUs {hours:8.2f} h {gpu_hours:9.1f} GPU-h  {run.efficiency:6.2f}  {run.bound}")


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--storage-gbs", default=2.0, show_default=True, help="Throughput of the shared storage in GB/s.")
@click.option("--cores", default=8.0, show_default=True, help="CPU cores beside each GPU.")
@click.option("--measure", is_flag=True, help="Compare with 1 to 4 local Ray nodes.")
@click.option("-o", "--output", default=str(RESULT_PATH), show_default=True, help="JSON file of --measure, or - for stdout.")
def main(storage_gbs: float, cores: float, measure: bool, output: str) -> None:
    """Simulates, and measures if asked to."""
    rows = simulate_jobs(storage_gbs, cores)
    if measure:
        result = {"storage, GB/s": storage_gbs, "cores of a GPU": cores, "simulated": rows, "local nodes": compare_with_nodes()}
        write_result(output, {**describe_run(ROOT), **result})


if __name__ == "__main__":
    main()

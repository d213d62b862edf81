"""Measures a model of Triton beside a session: 16 viewers with one alpha and with 16, and a process that is killed.

    DNI_TRITON=FOLDER python -m benchmarks.triton                       into benchmarks/results/triton.json
    DNI_TRITON=FOLDER python -m benchmarks.triton --requests 20 -o -    printed only

FOLDER is as benchmarks/triton/server.py says. The ways are timed in turn, in blocks, and every output is compared with that of
the session; a ratio is the median over the blocks. The clients run in this process, on the same cores as the server.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.result_file import describe_run, write_result
from benchmarks.samples import ROOT
from benchmarks.triton.client import Client
from benchmarks.triton.server import TritonServer, import_clients, why_unavailable
from dni_deploy.api.export import export
from dni_deploy.api.triton import triton
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import read_image
from dni_deploy.model_repository.model_config import ModelOptions
from dni_deploy.session.session import Session, open_session

RESULT_PATH = ROOT / "benchmarks" / "results" / "triton.json"
MODEL = "denoise"
CLIENTS = 16
BLOCKS = 20
HEIGHT_PX, WIDTH_PX = 48, 64
KILLS = 3
WATCH_INTERVAL_S = 2.0
RECOVERY_TIMEOUT_S = 60.0
ANSWERS_UNDER_WAY_S = 0.5
"""After a kill, an answer that was under way may still arrive; a new process takes longer than this."""

Block = tuple[float, list[float], int]
"""Seconds of a block, those of each request, and how many outputs were wrong."""


def choose_alpha(number: int) -> float:
    """Returns the alpha of a viewer, which float32 holds exactly."""
    return number / CLIENTS


def run_session(session: Session, frame: Frame, references: list[Frame], count: int) -> Block:
    """Renders as many frames as the clients ask for together, one after the other, each at the next viewer's alpha."""
    latencies, wrong, started = [], 0, time.perf_counter()
    for index in range(count * CLIENTS):
        number, begun = index % CLIENTS, time.perf_counter()
        output = session(frame, alpha=choose_alpha(number))
        latencies.append(time.perf_counter() - begun)
        wrong += not np.array_equal(output, references[number])
    return time.perf_counter() - started, latencies, wrong


def run_clients(clients: list[Client], frame: Frame, references: list[Frame], count: int, alphas: int) -> Block:
    """Lets every client ask `count` times, all at once."""
    latencies: list[float] = []
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(count):
            begun = time.perf_counter()
            answer = clients[number].ask(frame, choose_alpha(number % alphas))
            latencies.append(time.perf_counter() - begun)
            if not np.array_equal(answer.output, references[number % alphas]):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, latencies, len(wrong)


def compare_rates(server: TritonServer, session: Session, frame: Frame, requests: int) -> dict[str, Any]:
    """Times a session, clients with one alpha, and clients with one each, in turn."""
    references = [session(frame, alpha=choose_alpha(number)) for number in range(CLIENTS)]
    count = max(1, requests // BLOCKS)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client("grpc", server.grpc, MODEL)) for _ in range(CLIENTS)]
        ways: dict[str, Callable[[], Block]] = {
            "session": lambda: run_session(session, frame, references, count),
            "1 alpha": lambda: run_clients(clients, frame, references, count, 1),
            "16 alphas": lambda: run_clients(clients, frame, references, count, CLIENTS),
        }
        for way in ways.values():
            way()  # not measured
        memory = measure_memory(server)
        blocks: dict[str, list[Block]] = {name: [] for name in ways}
        cpu_seconds = dict.fromkeys(ways, 0.0)
        for index in range(BLOCKS):
            for name in list(ways) if index % 2 else reversed(ways):
                read_cpu_seconds = time.process_time if name == "session" else partial(measure_cpu_seconds, server)
                started = read_cpu_seconds()
                blocks[name].append(ways[name]())
                cpu_seconds[name] += read_cpu_seconds() - started
    result: dict[str, Any] = {"clients": CLIENTS, "requests of each": count * BLOCKS, "blocks": BLOCKS, "ways": {}}
    for name, series in blocks.items():
        latencies = [value * 1e3 for _, values, _ in series for value in values]
        p50, p95 = np.percentile(latencies, [50, 95])
        result["ways"][name] = {
            "requests/s": round(len(latencies) / sum(seconds for seconds, _, _ in series), 2),
            "p50 ms": round(float(p50), 1),
            "p95 ms": round(float(p95), 1),
            "cpu ms of the network's process, a frame": round(cpu_seconds[name] * 1e3 / len(latencies), 2),
            "requests": len(latencies),
            "wrong": sum(wrong for _, _, wrong in series),
        }
    seconds = {name: [block[0] for block in series] for name, series in blocks.items()}
    p95s = {name: [float(np.percentile(block[1], 95)) for block in series] for name, series in blocks.items()}
    result["rate of 16 alphas over the session's"] = describe_ratios(seconds["session"], seconds["16 alphas"])
    result["rate of 16 alphas over that of 1"] = describe_ratios(seconds["1 alpha"], seconds["16 alphas"])
    result["p95 of 16 alphas over that of 1"] = describe_ratios(p95s["16 alphas"], p95s["1 alpha"])
    result["memory of the process before and after, MB"] = [memory, measure_memory(server)]
    return result


def describe_ratios(series: list[float], other: list[float]) -> list[float]:
    """Returns the median, smallest and largest ratio of two series."""
    ratios = [one / another for one, another in zip(series, other, strict=True)]
    return [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))]


def measure_memory(server: TritonServer) -> float:
    """Measures the resident memory of the model's process, in MB."""
    (process_id,) = server.list_stubs(MODEL)
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def measure_cpu_seconds(server: TritonServer) -> float:
    """Measures the processor time that the model's process has taken so far."""
    (process_id,) = server.list_stubs(MODEL)
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def kill_processes(server: TritonServer, probe_path: Path, frame: Frame, clients: int) -> dict[str, Any]:
    """Kills the model's process again and again, while the shipped watch runs, and times how long no request is answered.

    Args:
        server: The server.
        probe_path: The model's probe.py.
        frame: What is asked for.
        clients: Number of clients, which ask on and on.

    Returns:
        Seconds from each kill to the next right answer, and what the probe and Triton itself said meanwhile.
    """
    command = [sys.executable, "-I", os.fspath(probe_path), "--server", f"http://{server.http}"]
    with Client("http", server.http, MODEL) as client:
        expected = client.ask(frame, 0.5).output
        ready, recoveries, probes = [], [], []
        stop, answers = threading.Event(), [time.monotonic()]
        threads = [threading.Thread(target=ask_until, args=(server, frame, expected, stop, answers)) for _ in range(clients)]
        watch = subprocess.Popen([*command, "--watch", str(WATCH_INTERVAL_S)], stdout=subprocess.DEVNULL)
        try:
            for thread in threads:
                thread.start()
            for _ in range(KILLS):
                time.sleep(WATCH_INTERVAL_S)
                killed = kill_process(server)
                ready.append(bool(client.connection.is_model_ready(MODEL)))
                while answers[-1] < killed + ANSWERS_UNDER_WAY_S and time.monotonic() < killed + RECOVERY_TIMEOUT_S:
                    time.sleep(0.05)
                recoveries.append(round(answers[-1] - killed, 2))
        finally:
            watch.terminate()
            watch.wait()
        kill_process(server)
        for _ in range(2):
            probe = subprocess.run(command, capture_output=True, text=True, check=False)
            probes.append([probe.returncode, probe.stdout.strip()])
            client.connection.unload_model(MODEL)
            client.connection.load_model(MODEL)
        stop.set()
        for thread in threads:
            thread.join()
    return {
        "clients": clients,
        "watch interval, s": WATCH_INTERVAL_S,
        "seconds to the next right answer": recoveries,
        "the probe, dead and loaded again": probes,
        "Triton's readiness after the kill": ready,
    }


def kill_process(server: TritonServer) -> float:
    """Kills the model's newest process; returns when."""
    os.kill(server.list_stubs(MODEL)[-1], signal.SIGKILL)
    return time.monotonic()


def ask_until(server: TritonServer, frame: Frame, expected: Frame, stop: threading.Event, answers: list[float]) -> None:
    """Asks on and on, and notes when an answer was right."""
    with Client("grpc", server.grpc, MODEL) as client:
        while not stop.is_set():
            try:
                output = client.ask(frame, 0.5).output
            except Exception:  # the clients' errors have no class in common
                time.sleep(0.05)
            else:
                if np.array_equal(output, expected):
                    answers.append(time.monotonic())


@click.command(help=__doc__)
@click.option("--requests", type=click.IntRange(BLOCKS), default=100, show_default=True, help="Requests of each client.")
@click.option("-o", "--output", default=os.fspath(RESULT_PATH), show_default=True)
def main(requests: int, output: str) -> None:
    """Runs all of it."""
    reason = why_unavailable()
    if reason is not None:
        raise click.ClickException(reason)
    import_clients()
    photograph = read_image(ROOT / "dni_deploy" / "data" / "astronaut.png").to_frame().astype(np.uint8, copy=False)
    frame = np.ascontiguousarray(photograph[100 : 100 + HEIGHT_PX, 200 : 200 + WIDTH_PX])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = ROOT / "dni_deploy" / "data" / "denoise"
        bundle = export({member: data / f"{member}.safetensors" for member in ("n20", "n60")}, folder / f"{MODEL}.dni")
        written = triton(folder / f"{MODEL}.dni", folder / "models", options=ModelOptions(threads=1))
        (folder / "server").mkdir()
        with (
            open_session(folder / f"{MODEL}.dni", engine="onnxruntime", threads=1) as session,
            TritonServer(folder / "models", [MODEL], folder / "server") as server,
        ):
            result = {
                **describe_run(ROOT),
                "tritonserver": "2.51.0",
                "numpy": np.__version__,
                "network": f"{bundle.architecture}, {WIDTH_PX}x{HEIGHT_PX}, 1 thread, 1 instance",
                "version": written.version,
                "load_before": round(os.getloadavg()[0], 2),
                "viewers": compare_rates(server, session, frame, requests),
                "killed": [
                    kill_processes(server, folder / "models" / MODEL / "probe.py", frame, count) for count in (1, CLIENTS)
                ],
            }
    write_result(output, result)


if __name__ == "__main__":
    main()

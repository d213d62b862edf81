"""Measures everything within a time budget, the most important first, each case in its own process to contain crashes.

    python -m benchmarks.gpu.measure_all --prepared FOLDER --budget 540 -o gpu.json

Finished cases are written to the output immediately; a kill loses only the case in progress. Plans stay in --work, and cases already
in the output are not measured again, so a second call resumes where the first one stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu import result as results
from benchmarks.gpu.modes import GPU_BACKEND_MODES, engine_library, max_plan_size
from benchmarks.result_file import describe_commit
from dni_deploy.errors import UnavailableError
from engines.cuda import driver
from engines.registry import ENGINES

ROOT = Path(__file__).resolve().parents[2]
MAX_TASK_TIME_FRACTION = 0.5
"""Largest fraction of the remaining time that one task may take."""
TASK_GRACE_S = 20.0
"""Seconds that a task may exceed its limit before it is terminated."""
BUILDABLE_ENGINES = tuple(
    dict.fromkeys(mode.engine for mode in GPU_BACKEND_MODES if mode.engine is not None and engine_library(mode.engine))
)


@dataclass(frozen=True)
class Task:
    """A task that runs in its own process.

    Attributes:
        name: For the log.
        arguments: Of benchmarks.gpu.
        case: What it adds to the result, or None.
        kernel: Whether it adds the kernel's figures.
    """

    name: str
    arguments: tuple[str, ...]
    case: tuple[str, tuple[int, int], str] | None = None
    kernel: bool = False


def list_tasks(plans: bool) -> Iterator[Task]:
    """Yields the tasks, the most important first; `plans` says whether TensorRT can build here."""
    yield Task("kernel", ("--rows", "kernel"), kernel=True)
    for shape in ((720, 1280), (256, 256), (1080, 1920)):
        for precision in ("fp16", "fp32"):
            for network in ("rrdb", "compact", "dncnn", "transformer"):
                if plans and max_plan_size(shape) == shape:  # smaller ones use the plans of the first shape
                    yield from (_plan_task(network, shape, precision, engine) for engine in BUILDABLE_ENGINES)
                yield _case_task(network, shape, precision)


def _plan_task(network: str, shape: tuple[int, int], precision: str, engine: str) -> Task:
    size = f"{shape[1]}x{shape[0]}"
    arguments = (network, "--shape", size, "--precision", precision, "--rows", engine, "--build-only")
    return Task(f"plan {network} {size} {precision} {engine}", arguments)


def _case_task(network: str, shape: tuple[int, int], precision: str) -> Task:
    size = f"{shape[1]}x{shape[0]}"
    rows = ",".join(mode.name for mode in GPU_BACKEND_MODES)
    arguments = (network, "--shape", size, "--precision", precision, "--rows", rows, "--no-build")
    return Task(f"{network} {size} {precision}", arguments, case=(network, shape, precision))


def has_result(result: results.Result | None, task: Task) -> bool:
    """Returns whether the output already contains the task's result."""
    if result is None:
        return False
    if task.kernel:
        return any(figure["network"] == "large" for figure in result["kernel"])
    measured = ((case["network"], tuple(case["shape"][2:]), case["precision"]) for case in result["cases"] if case["rows"])
    return task.case is not None and task.case in measured


def run(task: Task, common: tuple[str, ...], output: Path, seconds_left: float) -> results.Result | None:
    """Runs a task in a process; returns what it wrote before it ended or was terminated, or None."""
    limit = max(30.0, seconds_left * MAX_TASK_TIME_FRACTION)
    command = [sys.executable, "-m", "benchmarks.gpu", *task.arguments, *common]
    command += ["--budget", f"{limit:.0f}", "--output", str(output)]
    try:
        code = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=min(limit + TASK_GRACE_S, seconds_left), check=False
        ).returncode
        if code:
            print(f"{task.name}: ended with {code}", file=sys.stderr, flush=True)
    except subprocess.TimeoutExpired:
        print(f"{task.name}: ended after {limit + TASK_GRACE_S:.0f} s", file=sys.stderr, flush=True)
    return results.read(output) if output.exists() else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="what benchmarks.gpu --prepare wrote")
    parser.add_argument("--budget", type=float, default=1500.0, help="seconds for everything (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing per case (default %(default)s)")
    parser.add_argument("--work", type=Path, help="keep bundles and plans here for a second call")
    parser.add_argument("--commit", help="what was measured, where there is no git")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON")
    options = parser.parse_args(arguments)
    obstacle = driver.why_gpu_unavailable()
    if obstacle is not None:
        print(f"Error: Nothing can be measured on a GPU: {obstacle}.", file=sys.stderr)
        return UnavailableError.exit_code
    ends = time.monotonic() + options.budget
    whole = results.read(options.output) if options.output.exists() else None
    with tempfile.TemporaryDirectory(prefix="dni-bench-") as folder:
        scratch = Path(folder)
        common = ["--prepared", str(options.prepared.resolve()), "--work", str((options.work or scratch / "work").resolve())]
        common += ["--commit", options.commit or describe_commit(ROOT), "--seconds", str(options.seconds)]
        for number, task in enumerate(list_tasks(ENGINES["tensorrt"].unavailable_reason(None) is None)):
            seconds_left = ends - time.monotonic()
            if seconds_left < TASK_GRACE_S:
                print(f"no time left for {task.name} and what follows", file=sys.stderr, flush=True)
                break
            if has_result(whole, task):
                continue
            print(f"[{seconds_left:.0f} s left] {task.name}", file=sys.stderr, flush=True)
            result = run(task, tuple(common), scratch / f"{number}.json", seconds_left)
            if result is not None:
                whole = results.merge_results([result] if whole is None else [whole, result])
                results.write(options.output, whole)
    if whole is not None:
        print(results.format_short_table(whole))
    return 0 if whole is not None else 1


if __name__ == "__main__":
    sys.exit(main())

"""Checks and measures everything on a GPU within a time budget, the most important first.

    python -m benchmarks.gpu.run_all --prepared FOLDER --budget 540 -o OUT
    python -m benchmarks.gpu.run_all --prepared FOLDER --only kernels,rrdb-1280x720-fp16 -o OUT

Each step runs in processes of its own with a time limit, so that a crash or a hang of one costs the others nothing. OUT/STEP.log
has what it printed and OUT/STEP.json its figures; OUT/all.json has those of all steps, for benchmarks/results/. A second call with
the same OUT leaves out what has passed. The last line says in numbers what ran and what did not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import result as results
from benchmarks.gpu.__main__ import DEFAULT_PRECISIONS, DEFAULT_SHAPES, NETWORK_NAMES
from benchmarks.gpu.case import NOT_BUILT_REASON, NOT_REACHED_REASON
from benchmarks.gpu.machine import describe_machine
from benchmarks.gpu.modes import OUR_MODES, engine_library, list_mode_names, select_modes
from benchmarks.result_file import describe_commit
from dni_deploy.errors import UnavailableError, UsageError
from engines.cuda import driver
from engines.registry import ENGINES
from engines.trt.library import LIBRARY_TITLES

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = (sys.executable, "-m")
"""What a module's name and its arguments are appended to."""
MIN_LIMIT_FRACTION = 0.5
"""Fraction of a step's time limit that must be left for it to be started."""
MAX_BUILD_FRACTION = 0.6
"""Fraction of a step's remaining time that a command before its last one may take."""
CLOSE_TIMEOUT_S = 5.0
"""Seconds that a process gets to end by itself after its time is up."""
MAX_LOG_LINES, MAX_REASON_LENGTH = 200, 160
FRAME_ROWS = (*list_mode_names("", "-constant", "-ahead", "-inputs"), "onnxruntime-gpu", "torch-graph", "torch-compile")
"""The rows of the steps that time frames; --everything has all of them."""
FIRST_CASES = (("compact", "1280x720"), ("dncnn", "1280x720"), ("rrdb", "1280x720"), ("compact", "1920x1080"))
"""Network and size of the frames that are timed in any case, in float16."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: For --only and the log.
        commands: Modules with their arguments, run one after the other.
        limit_s: Seconds after which it is ended.
        rows: The rows of benchmarks.gpu that it measures, or () for a check.
        unavailable_reason: Why it cannot run here, or None.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    limit_s: float
    rows: tuple[str, ...] = ()
    unavailable_reason: str | None = None


@dataclass(frozen=True)
class StepRecord:
    """What became of a step.

    Attributes:
        status: "passed", "passed before", "failed" or "not run".
        reason: Why it failed or did not run, or None.
        seconds: That it took.
    """

    status: str
    reason: str | None = None
    seconds: float = 0.0


def list_steps() -> list[Step]:
    """Lists the steps of a short run, the most important first."""
    first, *others = (_frames_step(network, size, "fp16", FRAME_ROWS, 130) for network, size in FIRST_CASES)
    kernel = ("benchmarks.gpu", "compact", "rrdb", "--rows", "kernel", "--precision", "fp16", "--precision", "fp32")
    return [
        Step("kernels", (("tests.engines.cuda.on_gpu", "--skip-largest"),), 100),
        Step("kernel-bandwidth", (kernel,), 80, ("kernel",)),
        _engine_check("tensorrt-rtx", "tests.engines.trt.on_gpu", 120),
        _engine_check("tensorrt", "tests.engines.trt.on_gpu", 200),
        first,
        *others[:-1],
        _engine_check("onnxruntime-gpu", "tests.engines.onnxruntime_gpu.on_gpu", 60),
        _onnxruntime_step(),
        others[-1],
    ]


def list_all_steps() -> list[Step]:
    """Lists the steps of a short run and then every other network, size and precision."""
    steps = list_steps()
    names = {step.name for step in steps}
    every_case = itertools.product(DEFAULT_SHAPES, DEFAULT_PRECISIONS, NETWORK_NAMES)
    more = (_frames_step(network, size, precision, None, 300) for size, precision, network in every_case)
    return [*steps, *(step for step in more if step.name not in names)]


def _engine_check(engine: str, module: str, limit_s: float) -> Step:
    arguments = (engine,) if engine in LIBRARY_TITLES else ()
    return Step(engine, ((module, *arguments),), limit_s, unavailable_reason=ENGINES[engine].unavailable_reason(None))


def _frames_step(network: str, size: str, precision: str, names: tuple[str, ...] | None, limit_s: float) -> Step:
    """Makes a step that builds the plans, those of each library in a process of its own, and times what is available here."""
    case = ("benchmarks.gpu", network, "--shape", size, "--precision", precision, "--rows")
    reasons = {mode.name: mode.unavailable_reason() for mode in select_modes(names)}
    rows = tuple(name for name, reason in reasons.items() if reason is None)
    ours = [name for name in reasons if name in OUR_MODES]
    missing = None if set(ours) & set(rows) else "; ".join(dict.fromkeys(str(reasons[name]) for name in ours))
    builds = [
        (*case, ",".join(row for row in rows if engine_library(row) == library), "--build-only") for library in LIBRARY_TITLES
    ]
    commands = [command for command in builds if command[-2]]
    return Step(f"{network}-{size}-{precision}", (*commands, (*case, ",".join(rows), "--no-build")), limit_s, rows, missing)


def _onnxruntime_step() -> Step:
    """Makes the step of ONNX Runtime's other precisions; float16 is among the frames."""
    rows = tuple(mode.name for mode in select_modes(("onnxruntime-gpu", "torch-graph")) if mode.unavailable_reason() is None)
    precisions = ("--precision", "tf32", "--precision", "fp32")
    command = ("benchmarks.gpu", "compact", "--shape", "1280x720", *precisions, "--rows", ",".join(rows))
    reason = ENGINES["onnxruntime-gpu"].unavailable_reason(None)
    return Step("onnxruntime-gpu-precisions", (command,), 60, rows, reason)


@dataclass
class StepRunner:
    """One call of this program.

    Attributes:
        output: Folder of the logs and figures.
        common: Arguments of every measurement.
        commit: What is measured.
        deadline: Of time.monotonic, by which everything has ended.
        earlier: What became of the steps of earlier calls.
    """

    output: Path
    common: tuple[str, ...]
    commit: str
    deadline: float
    earlier: Mapping[str, StepRecord]

    def run_steps(self, steps: Sequence[Step], *, repeat: bool) -> dict[str, StepRecord]:
        """Runs the steps in turn, those that passed before with `repeat` alone, and returns what became of each."""
        records: dict[str, StepRecord] = {}
        for step in steps:
            seconds_left = self.deadline - time.monotonic()
            if not repeat and step.name in self.earlier and self.earlier[step.name].status.startswith("passed"):
                records[step.name] = StepRecord("passed before")
            elif step.unavailable_reason is not None:
                records[step.name] = StepRecord("not run", step.unavailable_reason)
            elif seconds_left < step.limit_s * MIN_LIMIT_FRACTION:
                records[step.name] = StepRecord("not run", "no time")
            else:
                print(f"[{seconds_left:.0f} s left] {step.name}", flush=True)
                records[step.name] = self._run_step(step, min(step.limit_s, seconds_left))
                self._report(step, records[step.name])
            self._write_summary(records)
        return records

    def _run_step(self, step: Step, limit_s: float) -> StepRecord:
        started = time.monotonic()
        faults = []
        (self.output / f"{step.name}.json").unlink(missing_ok=True)
        with (self.output / f"{step.name}.log").open("wb") as log:
            for number, command in enumerate(step.commands, 1):
                seconds_left = limit_s - (time.monotonic() - started)
                if number < len(step.commands):
                    seconds_left *= MAX_BUILD_FRACTION
                more = self._measurement_arguments(step, seconds_left) if step.rows else ()
                fault = run_command((*LAUNCHER, *command, *more), log, seconds_left)
                if fault is not None:
                    faults.append(fault)
        seconds = round(time.monotonic() - started, 1)
        if step.rows:
            faults += self._find_faults(step)
        else:
            self._write_check(step, not faults, seconds)
        reason = "; ".join(faults)[:MAX_REASON_LENGTH] or None
        return StepRecord("failed" if faults else "passed", reason, seconds)

    def _measurement_arguments(self, step: Step, seconds_left: float) -> tuple[str, ...]:
        return (*self.common, "--budget", f"{seconds_left * 0.9:.0f}", "--output", str(self.output / f"{step.name}.json"))

    def _find_faults(self, step: Step) -> list[str]:
        path = self.output / f"{step.name}.json"
        return find_faults(results.read(path), step.rows) if path.exists() else ["nothing was measured"]

    def _write_check(self, step: Step, passed: bool, seconds: float) -> None:
        result = results.make_empty_result(describe_machine(), self.commit)
        lines = (self.output / f"{step.name}.log").read_text(errors="replace").splitlines()[-MAX_LOG_LINES:]
        command = " ".join(itertools.chain(*step.commands))
        result["checks"] = [
            {"part": 0, "name": step.name, "command": command, "passed": passed, "seconds": seconds, "lines": lines}
        ]
        results.write(self.output / f"{step.name}.json", result)

    def _report(self, step: Step, record: StepRecord) -> None:
        print(f"  {record.status} in {record.seconds:.0f} s{f': {record.reason}' if record.reason else ''}", flush=True)
        if record.status == "failed":
            lines = (self.output / f"{step.name}.log").read_text(errors="replace").splitlines()
            print("\n".join(f"    {line}" for line in lines[-12:]), flush=True)

    def _write_summary(self, records: Mapping[str, StepRecord]) -> None:
        summary = {name: asdict(record) for name, record in {**self.earlier, **records}.items()}
        (self.output / "steps.json").write_text(json.dumps(summary, indent=1) + "\n")
        paths = [path for path in self.output.glob("*.json") if path.name not in ("all.json", "steps.json")]
        if paths:  # the newest last, which counts where a case was measured twice
            paths.sort(key=lambda path: path.stat().st_mtime)
            results.write(self.output / "all.json", results.merge_results(map(results.read, paths)))


def run_command(command: Sequence[str], log: Any, limit_s: float) -> str | None:
    """Runs a command with its output in an open log file; returns how it failed, or None.

    It is the first of a process group, which is ended with it: compilers that it started must not outlive it.
    """
    log.write(f"$ {' '.join(command)}\n".encode())
    log.flush()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"ended after {limit_s:.0f} s"
    finally:
        _end_group(process)
    return f"ended with {code}" if code else None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(CLOSE_TIMEOUT_S)


def find_faults(result: results.Result, rows: Sequence[str]) -> list[str]:
    """Lists the rows that could not be measured for another reason than time; that nothing was measured is a fault, too."""
    faults = [
        f"{name}: {why}"
        for case in result["cases"]
        for name, why in case["skipped"].items()
        if name in rows and why not in (NOT_REACHED_REASON, NOT_BUILT_REASON)
    ]
    if not result["kernel"] and not any(case["rows"] for case in result["cases"]):
        faults.append("nothing was measured")
    return faults


def format_last_line(records: Mapping[str, StepRecord], seconds: float) -> str:
    """Formats how many steps ran and passed, which failed, and which did not run and why."""
    groups: dict[str, dict[str, StepRecord]] = {status: {} for status in ("passed", "passed before", "failed", "not run")}
    for name, record in records.items():
        groups[record.status][name] = record
    parts = [f"{len(groups['passed'])} passed"]
    if groups["passed before"]:
        parts.append(f"{len(groups['passed before'])} passed before")
    if groups["failed"]:
        parts.append(f"{len(groups['failed'])} failed ({', '.join(groups['failed'])})")
    if groups["not run"]:
        by_reason = {
            record.reason: [n for n, r in groups["not run"].items() if r == record] for record in groups["not run"].values()
        }
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
        parts.append(f"{len(groups['not run'])} not run ({reasons})")
    ran = len(groups["passed"]) + len(groups["failed"])
    return f"ran {ran} of {len(records)} steps in {seconds:.0f} s: {', '.join(parts)}"


def _choose_steps(only: str | None, everything: bool) -> list[Step]:
    """Lists the steps that were asked for; UsageError where there is none of a name."""
    if only is None:
        return list_all_steps() if everything else list_steps()
    steps = {step.name: step for step in list_all_steps()}
    names = only.split(",")
    unknown = [name for name in names if name not in steps]
    if unknown:
        raise UsageError(f"There is no step {unknown[0]!r}; there are {', '.join(steps)}.")
    return [steps[name] for name in names]


def _read_summary(output: Path) -> dict[str, StepRecord]:
    """Reads what became of the steps of earlier calls."""
    path = output / "steps.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    return {name: StepRecord(**record) for name, record in stored.items()}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="what benchmarks.gpu --prepare wrote")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for everything (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing per case (default %(default)s)")
    parser.add_argument("--only", metavar="STEP,...", help="these steps alone, in this order, also where they passed before")
    parser.add_argument("--everything", action="store_true", help="also every other network, size and precision")
    parser.add_argument("--work", type=Path, help="keep bundles and plans here for a second call")
    parser.add_argument("--commit", help="what is measured, where there is no git")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the logs and figures")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    started = time.monotonic()
    obstacle = driver.why_gpu_unavailable()
    if obstacle is not None:
        print(f"Error: Nothing can be measured on a GPU: {obstacle}.", file=sys.stderr)
        return UnavailableError.exit_code
    try:
        steps = _choose_steps(options.only, options.everything)
    except UsageError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    commit = options.commit or describe_commit(ROOT)
    with tempfile.TemporaryDirectory(prefix="dni-bench-") as scratch:
        common = ["--prepared", str(options.prepared.resolve()), "--work", str((options.work or Path(scratch)).resolve())]
        common += ["--commit", commit, "--seconds", str(options.seconds)]
        runner = StepRunner(output, tuple(common), commit, started + options.budget, _read_summary(output))
        records = runner.run_steps(steps, repeat=options.only is not None)
    if (output / "all.json").exists():
        print(results.format_short_table(results.read(output / "all.json")))
    print(format_last_line(records, time.monotonic() - started))
    return int(any(record.status == "failed" for record in records.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the running step is ended, too
    sys.exit(main())

"""Commands whose n-th system call fails, or that are killed; each in a forked child of a process that has imported everything.

    python -m tests.campaign.faulty_commands faults|kills FOLDER [COMMAND...] [--tries N] [--seed S]

starts itself again with fault_shim.c preloaded, and prints a line for each command and for each thing that went wrong. Without
--tries every call fails once and for ever with each error; with it, so many that are drawn by the seed.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
SHIM_SOURCE = Path(__file__).with_name("fault_shim.c")
END_TIMEOUT_S = 60

KILL = 12
OPERATIONS: dict[str, tuple[int, tuple[int, ...]]] = {
    "write": (1, (errno.ENOSPC, errno.EIO, errno.EDQUOT)),
    "fsync": (2, (errno.EIO, errno.ENOSPC)),
    "create": (3, (errno.ENOSPC, errno.EACCES, errno.EROFS)),
    "rename": (4, (errno.EIO, errno.ENOSPC)),
    "link": (5, (errno.EIO, errno.EPERM)),
    "mkdir": (6, (errno.ENOSPC, errno.EROFS)),
    "unlink": (7, (errno.EIO,)),
    "close": (8, (errno.EIO, errno.ENOSPC)),
    "short write": (9, (0,)),
    "read": (10, (errno.EIO,)),
    "open": (11, (errno.EIO, errno.EACCES)),
}
"""Number of a kind of call in the shim, and the errors that it ends in."""

PARTIAL_EXIT_CODE = 8
GOOD_EXIT_CODES = {2, 3, 6, 7, PARTIAL_EXIT_CODE}
OLD = b"OLD"


class Fault(NamedTuple):
    """The n-th call of a kind fails, or that and all after it."""

    operation: str
    number: int
    n: int
    is_lasting: bool

    def __str__(self) -> str:
        name = errno.errorcode.get(self.number, "")
        return f"{self.operation} {name} {'for ever from' if self.is_lasting else 'at'} call {self.n}"


@dataclass(frozen=True)
class Command:
    """A command and what is there before it.

    Attributes:
        arguments: Of the command line; {work} and {fixtures} are folders.
        outputs: What it makes, in the work folder.
        has_bundle: Whether the bundle is there.
        has_old: Whether the outputs are there, as other files.
    """

    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    has_bundle: bool = True
    has_old: bool = False


_SESSION = ("--alpha", "0.3", "--threads", "1", "--engine", "onnxruntime")
COMMANDS = {
    "export": Command(("export", "a={fixtures}/a.pth", "b={fixtures}/b.pth", "-o", "{work}/x.dni"), ("x.dni",), has_bundle=False),
    "export-force": Command(("export", "a={fixtures}/a.pth", "b={fixtures}/c.pth", "-o", "{work}/x.dni", "--force"), ("x.dni",)),
    "refit": Command(("refit", "{work}/x.dni", "--alpha", "0.3", "-o", "{work}/n.onnx"), ("n.onnx",)),
    "refit-force": Command(("refit", "{work}/x.dni", "--alpha", "0.3", "-o", "{work}/n.onnx", "--force"), ("n.onnx",), has_old=True),
    "run": Command(("run", "{work}/x.dni", "{fixtures}/in.png", "-o", "{work}/o.png", *_SESSION), ("o.png",)),
    "run-force": Command(
        ("run", "{work}/x.dni", "{fixtures}/in.png", "-o", "{work}/o.png", *_SESSION, "--force"), ("o.png",), has_old=True
    ),
    "build": Command(("build", "{work}/x.dni", "--engine", "onnxruntime", "--threads", "1"), ("x.dni/plans",)),
    "calibrate": Command(
        ("build", "{work}/x.dni", "--engine", "onnxruntime", "--threads", "1", "--calibrate", "{fixtures}/in.png",
         "--calibration-method", "output", "--calibration-points", "3"), ("x.dni",),
    ),
    "slider": Command(("slider", "{work}/x.dni", "{fixtures}/in.png", "--steps", "4", "--threads", "1"), ("x.dni/manifest.json",)),
    "sweep": Command(
        ("sweep", "{work}/x.dni", "{fixtures}/in.png", "-o", "{work}/s.png", "--html", "{work}/s.html", "--threads", "1", "--force"),
        ("s.png", "s.html"), has_old=True,
    ),
    "video": Command(
        ("video", "{work}/x.dni", "{fixtures}/clip.mkv", "-o", "{work}/v.mkv", *_SESSION, "--segment", "4",
         "--alpha-log", "{work}/v.jsonl"),
        ("v.mkv", "v.jsonl"),
    ),
}  # fmt: skip


def build_shim(folder: Path) -> Path | None:
    """Compiles the shim; None where there is no compiler."""
    library = folder / "fault_shim.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM_SOURCE, "-ldl"], check=True)
    return library


def snapshot(folder: Path) -> dict[str, str]:
    """Digests of all files by path. A plan counts by its presence, a report without its timings not at all: bytes differ by run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[f"{name}/"] = ""
        else:
            is_stable = not name.endswith((".plan", ".html"))
            found[name] = sha256(path.read_bytes()).hexdigest()[:12] if is_stable else str(path.stat().st_size > len(OLD))
    return found


def find_leftovers(state: dict[str, str]) -> list[str]:
    """Temporaries; a stopped video's job folder is none."""
    return [path for path in state if ".part" in path and ".dni-part" not in path]


class Result(NamedTuple):
    """How a child ended: exit code (None: it was killed), calls of the kind, whether one failed, stderr."""

    code: int | None
    calls: int
    fired: int
    text: str


class Bench:
    """Runs commands in children, on files below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work, self.fixtures = folder, folder / "work", folder / "fixtures"
        self.shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
        for name, value in (("DNI_CACHE", folder / "cache"), ("TMPDIR", folder / "tmp"), ("HOME", folder / "home")):
            os.environ[name] = str(value)
            value.mkdir(parents=True, exist_ok=True)
        self.fixtures.mkdir(exist_ok=True)
        self._write_fixtures()

    def _write_fixtures(self) -> None:
        import av
        import numpy as np
        import torch
        from PIL import Image

        from dni_deploy.api.export import export
        from tests.support.pico_architectures import pico_net

        torch.set_num_threads(1)
        for seed, name in enumerate("abc"):
            torch.save(pico_net("srcnn_959", seed).state_dict(), self.fixtures / f"{name}.pth")
        bundle = self.fixtures / "x.dni"
        if not bundle.exists():
            export({name: self.fixtures / f"{name}.pth" for name in "ab"}, bundle)
        pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.fixtures / "in.png")
        with av.open(str(self.fixtures / "clip.mkv"), "w") as clip:
            stream: Any = clip.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for index in range(9):
                clip.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 48, 3), index * 20, np.uint8), format="rgb24")))
            clip.mux(stream.encode(None))

    def prepare(self, command: Command) -> None:
        """Makes the work folder what it is before a command."""
        for path in (self.work, self.folder / "tmp"):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        if command.has_bundle:
            shutil.copytree(self.fixtures / "x.dni", self.work / "x.dni")
        for name in command.outputs if command.has_old else ():
            (self.work / name).write_bytes(OLD)

    def run(
        self,
        command: Command,
        arm: tuple[int, int, int, int] = (0, 0, 0, 0),
        kill_after_s: float | None = None,
        *,
        force: bool = False,
    ) -> Result:
        """Runs a command in a child."""
        arguments = [part.format(work=self.work, fixtures=self.fixtures) for part in command.arguments]
        arguments += ["--force"] if force and "--force" not in arguments else []
        error_path = self.folder.with_suffix(".stderr")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            self._run_child(arguments, arm, error_path, writer)
        os.close(writer)
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        answer = os.read(reader, 4096)
        os.close(reader)
        os.waitpid(child, 0)
        text = error_path.read_text(errors="replace") if error_path.exists() else ""
        return Result(*(json.loads(answer) if answer else (None, 0, 0)), text)

    def _run_child(self, arguments: list[str], arm: tuple[int, int, int, int], error_path: Path, writer: int) -> None:
        from dni_deploy.cli.dispatch import run_command_line

        code = 99
        try:
            signal.alarm(END_TIMEOUT_S)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(error_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            self.shim.shim_arm(os.fsencode(self.folder) + b"/", *arm)
            code = run_command_line(arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:  # it must not get back into the rig
            os.write(2, f"ESCAPED {error!r}".encode())
            code = 98
        finally:
            counts = self.shim.shim_count(), self.shim.shim_fired()
            self.shim.shim_arm(b"", 0, 0, 0, 0)
            os.write(writer, json.dumps([code, *counts]).encode())
            os._exit(0)

    def record(self, command: Command) -> tuple[dict[str, str], dict[str, str], float]:
        """What is there before and after a run that nothing disturbs, and its seconds."""
        self.prepare(command)
        before, started = snapshot(self.work), time.monotonic()
        result = self.run(command)
        assert result.code == 0, result.text
        return before, snapshot(self.work), time.monotonic() - started

    def explain_bundle(self) -> str:
        """Returns why the bundle in the work folder is broken, or nothing."""
        from dni_deploy.bundle.bundle import Bundle

        if not (self.work / "x.dni").exists():
            return ""
        try:
            bundle = Bundle.open(self.work / "x.dni")
            for member in bundle.members:
                bundle.read_weights(member)
            bundle.read_graph()
        except Exception as error:
            return f"bundle broken: {error}"
        return ""


def list_faults(bench: Bench, command: Command) -> Iterator[Fault]:
    """Lists every fault of a command: each call of each kind, with each error, once and for ever."""
    for operation, (code, numbers) in OPERATIONS.items():
        bench.prepare(command)
        calls = bench.run(command, (code, 0, 0, 0)).calls
        for number in numbers:
            for is_lasting in (False, True):
                if is_lasting and operation in ("short write", "read", "open"):
                    continue
                for n in range(1, calls + 1):
                    yield Fault(operation, number, n, is_lasting)


def judge_fault(bench: Bench, fault: Fault, result: Result, before: dict[str, str], after: dict[str, str]) -> str:
    """Returns what is wrong after a fault, or nothing."""
    if result.code is None:
        return f"the child died: {result.text.strip()[-300:]!r}"
    state = snapshot(bench.work)
    problems = []
    # What cannot be removed, or looked for to be removed, stays; the next run of the command removes it.
    left = find_leftovers(state) + [f"tmp/{path.name}" for path in (bench.folder / "tmp").iterdir()]
    cannot_clean = fault.operation in ("unlink", "open") or (fault.is_lasting and fault.operation == "rename")
    if left and not cannot_clean:
        problems.append(f"left over: {left}")
    state = {path: digest for path, digest in state.items() if path not in left}
    old = {path: digest for path, digest in before.items() if path not in after} if cannot_clean else {}
    if cannot_clean:
        state = {path: digest for path, digest in state.items() if ".dni-part" not in path}
    lines = [line for line in result.text.splitlines() if line.startswith("dni-deploy: error")]
    is_explained = result.code in GOOD_EXIT_CODES and len(lines) == 1 and len(lines[0]) < 600 and "a bug in" not in result.text
    if not is_explained and not (result.code == 0 and {**state, **old} == {**after, **old}):
        problems.append(f"exit {result.code}, {result.text.strip()[-300:]!r}")
    mixed = [path for path in state if ".dni-part" not in path and state[path] not in (before.get(path), after.get(path))]
    gone = [path for path in before if path not in state and path in after]
    if (mixed and result.code != PARTIAL_EXIT_CODE) or gone:  # that code says that a part of the source could not be read
        problems.append(f"neither old nor new: {mixed}, gone: {gone}")
    if broken := bench.explain_bundle():
        problems.append(broken)
    return "; ".join(problems)


def try_faults(bench: Bench, name: str, tries: int | None, seed: int) -> tuple[int, list[str]]:
    """Tries the faults of a command; returns how many, and what went wrong."""
    command = COMMANDS[name]
    before, after, _ = bench.record(command)
    faults = list(list_faults(bench, command))
    total = len(faults)
    if tries is not None and tries < total:
        faults = random.Random(f"{seed} {name}").sample(faults, tries)
    problems, codes = [], Counter[tuple[str, int | None]]()
    for fault in faults:
        bench.prepare(command)
        result = bench.run(command, (OPERATIONS[fault.operation][0], fault.n, fault.number, int(fault.is_lasting)))
        if not result.fired and result.code == 0:
            continue  # threads: a call more or less
        codes[fault.operation, result.code] += 1
        if problem := judge_fault(bench, fault, result, before, after):
            problems.append(f"{name}: {fault}: {problem}")
    summary = ", ".join(f"{operation} exit {code}: {count}" for (operation, code), count in sorted(codes.items(), key=str))
    print(f"{name}: {sum(codes.values())} of {total} faults, {len(problems)} bad ({summary})", flush=True)
    return sum(codes.values()), problems


def try_kills(bench: Bench, name: str, tries: int | None, seed: int) -> tuple[int, list[str]]:
    """Kills a command at random moments and at its n-th change; then the same command has to finish as if nothing had been."""
    command = COMMANDS[name]
    before, after, seconds = bench.record(command)
    rng, problems, states = random.Random(f"{seed} {name}"), [], Counter[str]()
    bench.prepare(command)
    changes = bench.run(command, (KILL, 0, 0, 0)).calls
    tries = 100 if tries is None else tries
    for index in range(tries):
        bench.prepare(command)
        if index % 2:
            bench.run(command, kill_after_s=rng.random() * seconds)
        else:
            bench.run(command, (KILL, rng.randint(1, max(1, changes)), 0, 0))
        state = snapshot(bench.work)
        states["old" if state == before else "new" if state == after else "between"] += 1
        broken, gone = bench.explain_bundle(), [path for path in before if path not in state and path in after]
        outputs = [path for path in command.outputs if path in state and state[path] not in (before.get(path), after.get(path))]
        if broken or gone or outputs:
            problems.append(f"{name}: kill {index}: {broken} gone: {gone}, neither old nor new: {outputs}")
        is_there = any(path == output or path.startswith(f"{output}/") for output in command.outputs for path in state)
        result = bench.run(command, force=is_there)
        last = snapshot(bench.work)
        # A file of the replaced bundle that a kill kept from being removed stays, as docs/bundle-format.md says.
        strays = {path: digest for path, digest in last.items() if path in before and path not in after}
        if result.code != 0 or last != {**after, **strays}:
            differing = sorted(set(after.items()) ^ set(last.items())) if result.code == 0 else ""
            problems.append(f"{name}: after kill {index}: exit {result.code} {result.text[-300:]!r} {differing}")
    print(f"{name}: {tries} kills ({dict(states)}), {len(problems)} bad", flush=True)
    return tries, problems


def run_rig(
    mode: str, folder: Path, names: list[str], tries: int | None = None, seed: int = 0, *, capture: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs this module with the shim, in a process of its own."""
    library = build_shim(folder)
    assert library is not None
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.campaign.faulty_commands", mode, str(folder / "bench"), *names]
    command += [] if tries is None else ["--tries", str(tries)]
    output = subprocess.PIPE if capture else None
    return subprocess.run([*command, "--seed", str(seed)], env=environment, cwd=ROOT, stdout=output, text=True, check=False)


def main() -> int:
    """Runs what the command line asks for; exit code 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("faults", "kills"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(COMMANDS)}")
    parser.add_argument("--tries", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if "LD_PRELOAD" not in os.environ:
        return run_rig(options.mode, options.folder, options.commands, options.tries, options.seed, capture=False).returncode
    for name in ("build", "export", "refit", "run", "slider", "sweep", "video"):
        __import__(f"dni_deploy.cli.{name}")
        __import__(f"dni_deploy.api.{name}")
    bench = Bench(options.folder.resolve())
    attempt: Callable[[Bench, str, int | None, int], tuple[int, list[str]]] = (
        try_faults if options.mode == "faults" else try_kills
    )
    count, problems = 0, []
    for name in options.commands or COMMANDS:
        tried, found = attempt(bench, name, options.tries, options.seed)
        count, problems = count + tried, problems + found
    print(f"{count} {options.mode}, {len(problems)} bad", *problems, sep="\n  ", flush=True)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())

"""What a command does beside its work, by its system calls: no socket but to this machine, no file but those that were asked for.

Each command runs under strace in a home folder of its own, and once more without one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.pico_architectures import pico_net

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "export": "export a=a.pth b=b.pth -o new.dni",
    "inspect": "inspect x.dni",
    "check": "check a.pth b.pth --html check.png",
    "build": "build x.dni --engine onnxruntime",
    "refit": "refit x.dni --alpha .3 -o blend.onnx",
    "run": "run x.dni in.png -o out.png --alpha .3",
    "sweep": "sweep x.dni in.png -o sheet.png --steps 3 --html sweep.html --reference in.png --plot sweep.svg",
    "tune": "tune x.dni in.png --reference in.png --evaluations 3 --plot tune.png",
    "slider": "slider x.dni in.png --steps 4 --plot slider.png",
    "video": "video x.dni clip.mkv -o film.mkv --alpha .3",
    "bench": "bench x.dni --shape 1x3x16x16 --repeats 1 --plot bench.svg",
    "doctor": "doctor",
    "demo": "demo -o demo",
}
LIBRARY_CALL = """
import sys, time, numpy as np, dni_deploy as dni
with dni.open_session("x.dni") as session:
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        session(np.zeros((32, 32, 3), np.uint8))
        time.sleep(0.5)
"""
SESSION_SECONDS = 8
"""ONNX Runtime's telemetry, where it is on, asks the network from about 5 s on."""
NETWORK_CALL = re.compile(r"\b(?:socket|connect|sendto|sendmsg|sendmmsg)\(.*AF_INET6?\b.*")
LOOPBACK = re.compile(r'"127\.\d+\.\d+\.\d+"|"::1"|^socket')
WRITING_CALL = re.compile(
    r"\b(?:creat|mkdir|mkdirat|renameat2?|rename|linkat|link|symlinkat|symlink)\(.*|\bopen(?:at)?\(.*O_(?:WRONLY|RDWR|CREAT).*"
)
PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace here"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints, their bundle, a picture and a clip."""
    import av

    import dni_deploy as dni

    folder = tmp_path_factory.mktemp("work")
    for seed, name in enumerate("ab"):
        torch.save(pico_net("dncnn_bn", seed).state_dict(), folder / f"{name}.pth")
    dni.export({name: folder / f"{name}.pth" for name in "ab"}, folder / "x.dni")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(folder / "in.png")
    with av.open(str(folder / "clip.mkv"), "w") as clip:
        stream = clip.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for level in range(0, 200, 20):
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 48, 3), level, np.uint8), format="rgb24")))
        clip.mux(stream.encode())
    return folder


def run_python(
    folder: Path, home: Path, temporary: Path, arguments: list[str], trace: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python in the folder with these home and temporary folders; writes its successful system calls to `trace`."""
    dropped = ("DNI_", "ORT_", "XDG_", "MPL", "PYTEST", "TORCH")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(dropped)} | {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    tracer = (
        []
        if trace is None
        else ["strace", "-f", "--seccomp-bpf", "-z", "-qq", "-s", "500", "-e", "trace=file,network", "-o", trace]
    )
    return subprocess.run(
        [*tracer, sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def list_network_calls(trace: str) -> Iterator[str]:
    """Lists the calls that reach beyond this machine; a socket alone does not, and libraries open one to look at it."""
    for call in NETWORK_CALL.findall(trace):
        if not LOOPBACK.search(call):
            yield call


def list_foreign_writes(trace: str, allowed: list[Path]) -> Iterator[str]:
    """Lists the calls that make or change a file with an absolute path outside of the allowed folders."""
    prefixes = (*(f"{path}/" for path in allowed), "/dev/", "/proc/self/")
    for call in WRITING_CALL.findall(trace):
        paths = [path for path in PATH.findall(call) if path.startswith("/")]
        # What makes the way to an allowed folder is its parents.
        is_allowed = [
            f"{path}/".startswith(prefixes) or any(f"{one}/".startswith(f"{path}/") for one in allowed) for path in paths
        ]
        if not all(is_allowed):
            yield call


def list_arguments(name: str) -> list[str]:
    """Lists the arguments of Python for a command; what an earlier test wrote is replaced."""
    if name == "library":
        return ["-c", LIBRARY_CALL, str(SESSION_SECONDS)]
    # -q: a slow machine gets lines of progress.
    return ["-m", "dni_deploy", *COMMANDS[name].split(), "-q", *(["--force"] if name not in ("inspect", "doctor") else [])]


@pytest.mark.parametrize("name", [*COMMANDS, "library"])
def test_nothing_leaves_the_machine_or_the_given_paths(name: str, folder: Path, tmp_path: Path) -> None:
    home, temporary, trace = tmp_path / "home", tmp_path / "temporary", tmp_path / "trace"
    home.mkdir()
    temporary.mkdir()
    child = run_python(folder, home, temporary, list_arguments(name), trace)
    assert child.returncode == 0, child.stderr
    calls = trace.read_text(errors="replace")
    assert "openat(" in calls
    assert list(list_network_calls(calls)) == []
    cache, configuration = home / ".cache/dni-deploy", home / ".config/dni-deploy"
    assert list(list_foreign_writes(calls, [folder, temporary, cache, configuration])) == []


def test_the_trace_shows_telemetry_where_it_is_on(folder: Path, tmp_path: Path) -> None:
    """What the test above looks for would be seen; the user's own setting wins."""
    trace = tmp_path / "trace"
    child = run_python(folder, tmp_path, tmp_path, list_arguments("library"), trace, ORT_DISABLE_TELEMETRY="0")
    assert child.returncode == 0, child.stderr
    calls = trace.read_text(errors="replace")
    assert list(list_foreign_writes(calls, [folder])) != []


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("bench", "demo")])  # which take minutes
def test_no_home_folder_is_needed(name: str, folder: Path, tmp_path: Path) -> None:
    """As for the account of a service; and nothing is printed of what could not be kept."""
    child = run_python(folder, Path("/proc/nobody"), tmp_path, list_arguments(name))
    assert child.returncode == 0, child.stderr
    # Notes are ours; without a configuration folder, so is that on a plan that `build` has written in another process.
    lines = child.stderr.splitlines()
    assert [line for line in lines if not line.startswith("note: ") and "is passed over" not in line] == []

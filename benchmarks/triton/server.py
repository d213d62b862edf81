"""Triton Inference Server out of the wheel of nvidia-pytriton, without a container, for tests and measurements.

DNI_TRITON names the folder of

    pip install --no-deps --target FOLDER -c constraints.txt nvidia-pytriton tritonclient grpcio geventhttpclient gevent \\
        python-rapidjson urllib3 brotli certifi zope.event zope.interface

The wheel has tritonserver 2.51 and, for each Python, the program that runs models of the python backend, for Linux on x86-64. The
program needs the shared library of the same Python, and its standard library.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

FOLDER_VARIABLE = "DNI_TRITON"
ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 5
"""After which Triton gives up to end in order: a model of which a process died is never free again for it (2.51)."""
STOP_TIMEOUT_S = 20.0
STUB_NAME = "triton_python_backend_stub"


def why_unavailable() -> str | None:
    """Tells why the server cannot run here; None where it can."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return f"{FOLDER_VARIABLE} is not set"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the wheel is for Linux on x86-64"
    if not _find_stub(Path(folder)).is_file():
        return f"{folder} has no {STUB_NAME} for Python {sys.version_info[0]}.{sys.version_info[1]}"
    return "this Python has no shared library" if _find_library_folder() is None else None


def import_clients() -> None:
    """Makes tritonclient importable."""
    folder = os.environ[FOLDER_VARIABLE]
    if folder not in sys.path:
        sys.path.append(folder)


def _find_stub(folder: Path) -> Path:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return folder / "pytriton" / "tritonserver" / "python_backend_stubs" / version / STUB_NAME


def _find_library_folder() -> Path | None:
    """Finds the folder of libpython; Debian has it in a folder of the machine's kind."""
    name = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
    folder = Path(str(sysconfig.get_config_var("LIBDIR")))
    candidates = (folder, folder / str(sysconfig.get_config_var("MULTIARCH")))
    return next((each for each in candidates if (each / name).is_file()), None)


class TritonServer:
    """A server on ports of its own on 127.0.0.1; as a context manager it is stopped at the end.

    Attributes:
        http: Address for HTTP, such as "127.0.0.1:8000".
        grpc: Address for gRPC.
        log_path: What the server and its models wrote.
    """

    def __init__(self, repository: Path, models: Sequence[str], work: Path) -> None:
        """Starts the server and waits until it is ready.

        Args:
            repository: The model repository.
            models: Names of the models to load.
            work: An empty folder for the backend's files and the log.
        """
        folder = Path(os.environ[FOLDER_VARIABLE])
        server = folder / "pytriton" / "tritonserver"
        backend = work / "backends" / "python"
        shutil.copytree(server / "backends" / "python", backend)
        shutil.copy(_find_stub(folder), backend)  # it has to lie beside the backend's library
        http, grpc = _find_free_ports(2)
        self.http, self.grpc = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
        self.log_path = work / "server.log"
        environment = {
            **os.environ,
            # The program takes the standard library of this home, and the shared library that the loader finds.
            "PATH": os.pathsep.join([f"{sys.base_prefix}/bin", os.environ.get("PATH", "")]),
            "PYTHONHOME": sys.base_prefix,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if path and path != str(folder))]),
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, (_find_library_folder(), folder / "nvidia_pytriton.libs"))),
        }
        command = [
            f"{server}/bin/tritonserver",
            f"--model-repository={repository}",
            f"--backend-directory={backend.parent}",
            "--http-address=127.0.0.1",
            f"--http-port={http}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={grpc}",
            "--allow-metrics=false",
            "--exit-on-error=false",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in models),
        ]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            self._wait_until_live()
        except BaseException:
            self.close()
            raise

    def _wait_until_live(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://{self.http}/v2/health/live", timeout=5):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"tritonserver did not start:\n{self.read_log()}")
            time.sleep(0.1)

    def read_log(self) -> str:
        """Reads what the server and its models wrote so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def list_stubs(self, model: str) -> list[int]:
        """Lists the numbers of the processes that run a model."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError, IndexError):
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self._process.pid and f"/{model}/".encode() in arguments[1]:
                    found.append(int(folder.name))
        return sorted(found)

    def close(self) -> None:
        """Stops the server, and what is left of its models."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _find_free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()

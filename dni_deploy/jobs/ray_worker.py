"""What runs in a worker of a Ray cluster.

This module travels as code, and imports dni_deploy late, so that it can say what is missing on a machine without it.
"""

from __future__ import annotations

import os
import pickle
import platform
import time
from hashlib import sha256
from typing import Any

MAX_DIGEST_BYTES = 4 << 20
"""Files up to this size are compared by their content, others by their size."""

MAX_LATE_SECONDS = 3.0
"""A file that was just written may appear that much later on a network file system."""


Problem = tuple[str, str, int]
"""Kind, sentence and exit code of an error that every unit would meet."""


class RayWorker:
    """A UnitWorker in a process of the cluster. When the process dies, Ray starts another one, which opens it anew.

    Answers are fields of WorkerAnswer, of built-in types only, so that they can be read whatever is installed where.
    """

    def __init__(self, version: str, factory: bytes, shared_paths: dict[str, str]) -> None:
        """Keeps the arguments.

        Args:
            version: The version of dni-deploy of the job.
            factory: A pickled WorkerFactory.
            shared_paths: Path -> what `describe_path` says of it where the job was started.
        """
        self._version, self._factory, self._shared_paths = version, factory, shared_paths
        self._worker: Any = None

    def open(self) -> dict[str, Any]:
        """Opens the worker, unless it is open."""
        answer = self._answer(self._find_problem() if self._worker is None else None)
        return answer if self._worker is None else {**answer, "description": pickle.dumps(self._worker.description)}

    def run(self, data: bytes) -> dict[str, Any]:
        """Does pickled units; the answer has their rows."""
        answer = self.open()  # Ray may send what waited for a worker that died to the one in its place
        if answer["problem"] is not None:
            return answer
        from dni_deploy.errors import DniError

        started = time.perf_counter()
        try:
            rows = list(self._worker.run_units(pickle.loads(data)))
        except DniError as error:
            return self._answer((error.kind, str(error), error.exit_code))
        return {**self._answer(None), "rows": pickle.dumps(rows), "seconds": time.perf_counter() - started}

    def close(self) -> None:
        """Frees what the worker holds."""
        if self._worker is not None:
            self._worker.close()

    def _answer(self, problem: Problem | None) -> dict[str, Any]:
        import ray

        node = ray.get_runtime_context().get_node_id()
        return {"host": platform.node(), "pid": os.getpid(), "node": node, "problem": problem}

    def _find_problem(self) -> Problem | None:
        """Opens the worker, or says why it cannot be opened: kind, sentence, exit code."""
        where = f"The worker at {platform.node()}"
        try:
            from dni_deploy._version import __version__
            from dni_deploy.errors import DniError, escape_name
            from dni_deploy.utils.optional_packages import explain_missing_package
        except ImportError:
            python = platform.python_version()
            return (
                "UnavailableError",
                f"{where} has no dni-deploy: install dni-deploy {self._version} into its Python {python}.",
                7,
            )
        if __version__ != self._version:
            return (
                "UnavailableError",
                f"{where} has dni-deploy {__version__}, and this is {self._version}: install one of them.",
                7,
            )
        for path, expected in self._shared_paths.items():
            if not _is_as_expected(path, expected):
                name = escape_name(path)
                problem = f"finds something else at {name}" if os.path.lexists(path) else f"cannot read {name}"
                return "UnavailableError", f"{where} {problem}: put it on shared storage.", 7
        try:
            self._worker = pickle.loads(self._factory).open_worker()
        except ModuleNotFoundError as error:
            explained = explain_missing_package(error)
            if explained is None:
                raise
            return explained.kind, f"{where}: {explained}", explained.exit_code
        except DniError as error:
            return error.kind, f"{where}: {error}", error.exit_code
        return None


def describe_path(path: str) -> str:
    """Describes a file or folder so that another machine can tell whether it sees the same one; "" where it cannot be read."""
    try:
        if os.path.isdir(path):
            os.listdir(path)
            return "folder"
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return f"{size} bytes" if size > MAX_DIGEST_BYTES else sha256(file.read()).hexdigest()
    except OSError:
        return ""


def _is_as_expected(path: str, expected: str) -> bool:
    end = time.monotonic() + MAX_LATE_SECONDS
    while describe_path(path) != expected:
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True

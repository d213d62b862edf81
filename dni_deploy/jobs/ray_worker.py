"""What runs in a worker of a Ray cluster.

This module travels as code, and imports dni_deploy late, so that it can say what is missing on a machine without it.
"""

from __future__ import annotations

import os
import pickle
import platform
import sys
import time
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any

OWN_DISTRIBUTION = "dni-deploy"

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

    def __init__(self, factory: bytes, versions: dict[str, str], shared_paths: dict[str, str]) -> None:
        """Keeps the arguments.

        Args:
            factory: A pickled WorkerFactory.
            versions: Distribution -> its version where the job was started.
            shared_paths: Path -> what `describe_path` says of it there.
        """
        self._factory, self._versions, self._shared_paths = factory, versions, shared_paths
        self._worker: Any = None

    def open(self) -> dict[str, Any]:
        """Opens the worker, unless it is open."""
        answer = self._answer(self._find_problem() if self._worker is None else None)
        return (
            answer
            if self._worker is None
            else {**answer, "description": pickle.dumps(getattr(self._worker, "description", None))}
        )

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
        is_open = self._worker is not None
        return {"host": platform.node(), "pid": os.getpid(), "node": node, "is_open": is_open, "problem": problem}

    def _find_problem(self) -> Problem | None:
        """Opens the worker, or says why it cannot be opened: kind, sentence, exit code."""
        where = f"The worker at {platform.node()}"
        try:
            from dni_deploy._version import __version__
            from dni_deploy.errors import DniError, escape_name
            from dni_deploy.utils.optional_packages import explain_missing_package
        except ImportError:
            needed = f"{OWN_DISTRIBUTION} {self._versions[OWN_DISTRIBUTION]}"
            return "UnavailableError", f"{where} has no dni-deploy: install {needed} into its Python {sys.executable}.", 7
        for name, expected in self._versions.items():
            found = __version__ if name == OWN_DISTRIBUTION else _find_version(name)
            if found != expected:
                return (
                    "UnavailableError",
                    f"{where} has {name} {found}, and this is {expected}: install one of them on both.",
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


def _find_version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "in no version"


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

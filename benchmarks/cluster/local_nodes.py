"""A Ray cluster of several nodes on one machine: a head that does no work, and raylets of one CPU each."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from benchmarks.samples import ROOT

STORE: dict[str, Any] = {"object_store_memory": 80 << 20}
WORKER_NAME = "ray::RayWorker"


class LocalNodes:
    """The cluster.

    Attributes:
        address: As `--ray` takes it.
    """

    def __init__(self, count: int) -> None:
        """Starts the head and so many nodes."""
        os.environ["PYTHONPATH"] = os.pathsep.join([os.fspath(ROOT), os.environ.get("PYTHONPATH", "")])
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **STORE})
        self.address = self._cluster.address
        self._nodes: list[Any] = []
        for _ in range(count):
            self.add_node()

    def add_node(self) -> None:
        """Adds a node of one CPU."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, **STORE))

    def kill_node(self) -> None:
        """Kills the raylet of a node with SIGKILL, and adds another node in its place."""
        node = self._nodes.pop(0)
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self.add_node()
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        """Stops the cluster."""
        ray.shutdown()
        self._cluster.shutdown()

    def find_workers(self) -> list[int]:
        """Lists the processes of workers on the nodes."""
        pids = []
        for node in self._nodes:
            with suppress(psutil.NoSuchProcess):
                for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
                    with suppress(psutil.Error):
                        pids += [process.pid] if "".join(process.cmdline()[:1]).startswith(WORKER_NAME) else []
        return pids


@contextmanager
def start_nodes(count: int) -> Iterator[LocalNodes]:
    """Starts a cluster and stops it."""
    nodes = LocalNodes(count)
    try:
        yield nodes
    finally:
        nodes.close()

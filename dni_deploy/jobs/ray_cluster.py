"""A Ray cluster: the connection to one, or one that is started here; its errors as one sentence each."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray._private.ray_constants as ray_constants

from dni_deploy.errors import DniError, UnavailableError, UsageError, escape_name
from dni_deploy.jobs.ray_options import AUTO, LOCAL, RayOptions, parse_address
from dni_deploy.utils.format_count import format_count

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
OBJECT_STORE_BYTES = 80 << 20
"""Of a cluster that is started here: only paths and rows travel."""

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of HTTP/2, and so of gRPC, begins: with its settings, which are the defaults."""

SETTINGS_FRAME_TYPE = 4

LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's own switch: without clusters over the network, which is its default on Windows and macOS, all of its servers bind 127.0.0.1."""


@dataclass(frozen=True)
class ClusterRoom:
    """What a cluster has room for.

    Attributes:
        nodes: The resources of each machine that is alive.
        growing_nodes: Those of the machines that it may have in the end, where it starts and stops them itself; else empty.
    """

    nodes: tuple[Mapping[str, float], ...]
    growing_nodes: tuple[Mapping[str, float], ...] = ()

    def choose_gpus(self, options: RayOptions, *, uses_gpu: bool | None) -> float:
        """Returns the GPUs of each worker.

        Args:
            options: The options of the job.
            uses_gpu: Whether the engine needs a GPU; None: it takes one where there is any.
        """
        if options.gpus is not None:
            return options.gpus
        has_any = any(node.get("GPU", 0) for node in (*self.nodes, *self.growing_nodes))
        return 1.0 if (has_any if uses_gpu is None else uses_gpu) else 0.0

    def choose_worker_count(self, options: RayOptions, gpus: float) -> int:
        """Returns the number of workers: that of the options, or as many as there is room for.

        Raises:
            UnavailableError: There is not so much room, and the cluster does not grow.
        """
        room = count_places(self.nodes, options.cpus, gpus)
        largest = max(room, count_places(self.growing_nodes, options.cpus, gpus))
        wanted = options.workers or room or largest or 1
        if wanted > largest:
            raise UnavailableError(self._describe_lack(wanted, largest, options, gpus))
        return wanted

    def _describe_lack(self, wanted: int, largest: int, options: RayOptions, gpus: float) -> str:
        total = {name: sum(node.get(name, 0) for node in self.nodes) for name in ("CPU", "GPU")}
        takes = f"{options.cpus} CPUs" if options.cpus > 1 else "1 CPU"
        if gpus:
            takes = f"{gpus:g} GPU{'s' if gpus > 1 else ''} and {takes}"
        room, machines = format_count(largest, "worker") if largest else "no worker", format_count(len(self.nodes), "machine")
        return (
            f"The cluster has room for {room} with {takes}, and this job needs {wanted}. "
            f"It has {total['GPU']:g} GPUs and {total['CPU']:g} CPUs in {machines}."
        )


def count_places(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """Counts the workers that machines have room for, none of which is spread over two."""
    count = 0
    for node in nodes:
        places = int(node.get("CPU", 0) // cpus)
        if gpus >= 1:
            places = min(places, int(node.get("GPU", 0) // gpus))
        elif gpus:  # no worker takes parts of two GPUs
            places = min(places, int(node.get("GPU", 0)) * int(1 / gpus + 1e-9))
        count += places
    return count


@contextmanager
def connect_cluster(options: RayOptions) -> Iterator[ClusterRoom]:
    """Connects to a cluster, or starts one; within a program that has connected already, that one is used.

    Yields:
        What it has room for. At the end the connection is closed, and a cluster that was started here stops.

    Raises:
        UnavailableError: There is none within CONNECT_TIMEOUT_S, or it has other versions of Python or Ray.
    """
    if ray.is_initialized():
        yield _read_room()
        return
    address = options.ray or LOCAL
    started = time.perf_counter()
    with _log_printed_lines():
        try:
            _initialize(address)
            log.info("Ray: %s after %.1f s", "started here" if address == LOCAL else "connected", time.perf_counter() - started)
            yield _read_room()
        finally:
            ray.shutdown()


def _initialize(address: str) -> None:
    if address != LOCAL:
        _check_answers(address)
    arguments: dict[str, Any] = {
        "address": address,
        "log_to_driver": log.isEnabledFor(logging.INFO),
        "logging_level": logging.WARNING if log.isEnabledFor(logging.INFO) else logging.CRITICAL,
    }
    if address == LOCAL:
        arguments |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    with _keep_signal_handlers(), _bind_loopback(address == LOCAL), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ray.init(**arguments)
        except DniError:
            raise
        except Exception as error:  # Ray raises ValueError, RuntimeError, ConnectionError, OSError and its own
            with suppress(Exception):
                ray.shutdown()
            raise UnavailableError(explain_connection_error(address, error)) from error


def explain_connection_error(address: str, error: Exception) -> str:
    """Makes a sentence of what Ray raises when it cannot connect."""
    text = str(error)
    versions = re.findall(r"(Ray|Python): ([\w.+-]+)", text)
    if "ersion mismatch" in text and len(versions) == 4:
        cluster, own = (" and ".join(f"{name} {version}" for name, version in pair) for pair in (versions[:2], versions[2:]))
        return f"The cluster has {cluster}, and this is {own}: both have to be the same."
    if isinstance(error, ConnectionError) and "find any running Ray" in text:
        return (
            "No Ray cluster runs on this machine: start one with `ray start --head`, name its HOST:PORT, or give --ray local."
        )
    if isinstance(error, ImportError):
        return f"Ray needs the package {escape_name(error.name or text)} for {escape_name(address)}: pip install grpcio"
    if "uthentication" in text or "token" in text.lower():
        return f"The cluster at {escape_name(address)} asks for a token: set RAY_AUTH_TOKEN to its own, or RAY_AUTH_TOKEN_PATH."
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    what = "cannot start here" if address == LOCAL else f"cannot connect to {escape_name(address)}"
    return f"Ray {what}: {escape_name(first, 400)}"


def _check_answers(address: str) -> None:
    """Checks that a server of Ray answers: Ray itself would try for minutes, and print what it tries."""
    stored_at = None
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS", "")
        if address in ("", AUTO):
            stored_at, address = _read_current_cluster()
        if not address or address == LOCAL:
            return
        try:
            parse_address(address)
        except UsageError:
            where = "RAY_ADDRESS" if stored_at is None else escape_name(stored_at)
            raise UnavailableError(f"{where} holds {escape_name(address)}, which is no address of a Ray cluster.") from None
    problem = _knock(*parse_address(address))
    if problem is None:
        return
    if stored_at is not None:
        raise UnavailableError(
            f"{escape_name(stored_at)} names a Ray cluster at {escape_name(address)} that is gone ({problem}): remove this file, "
            "and start a cluster or give --ray local."
        )
    raise UnavailableError(f"No Ray cluster answers at {escape_name(address)}: {problem}.")


def _read_current_cluster() -> tuple[str, str]:
    """Reads the file in which Ray keeps the address of the cluster of this machine; an empty address where there is none."""
    from ray._common.utils import get_ray_address_file

    path = str(get_ray_address_file(None))
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return path, file.read(300).strip()
    return path, ""


def _knock(host: str, port: int) -> str | None:
    """Says why nothing that speaks gRPC is at an address; None where it does."""
    try:
        with socket.create_connection((host, port), CONNECT_TIMEOUT_S) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return None
            connection.settimeout(CONNECT_TIMEOUT_S)
            connection.sendall(HTTP2_PREFACE)
            answer = connection.recv(4)
    except TimeoutError:
        return f"no answer within {CONNECT_TIMEOUT_S:.0f} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None if answer[3:4] == bytes((SETTINGS_FRAME_TYPE,)) else "what is there is not Ray"


@contextmanager
def _log_printed_lines() -> Iterator[None]:
    """Logs what Ray prints on stdout of its own accord, such as that a machine is gone: results are printed there."""
    from ray._private import worker

    def log_lines(data: Mapping[str, Any], *_: object, **__: object) -> None:
        for line in data.get("lines", ()):
            log.info("Ray: %s", line)

    before = getattr(worker, "print_to_stdstream", None)
    worker.print_to_stdstream = log_lines
    try:
        yield
    finally:
        if before is not None:
            worker.print_to_stdstream = before


@contextmanager
def _bind_loopback(is_local: bool) -> Iterator[None]:
    """Lets the servers of a cluster that is started here listen on 127.0.0.1 only: they run code for whoever reaches them."""
    if not is_local:
        yield
        return
    before, was_enabled = os.environ.get(LOOPBACK_VARIABLE), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK_VARIABLE] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = was_enabled
        if before is None:
            del os.environ[LOOPBACK_VARIABLE]
        else:
            os.environ[LOOPBACK_VARIABLE] = before


@contextmanager
def _keep_signal_handlers() -> Iterator[None]:
    """Puts back the handler of SIGTERM, which ray.init replaces by one of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _read_room() -> ClusterRoom:
    return ClusterRoom(tuple(node["Resources"] for node in ray.nodes() if node["Alive"]), _read_growing_nodes())


def _read_growing_nodes() -> tuple[Mapping[str, float], ...]:
    """Reads which machines a cluster that grows may have in the end; nothing where it does not, or does not say."""
    with suppress(Exception):  # nothing of this is documented, and a client of ray:// has no state
        config = ray._private.state.state.get_cluster_config()
        return tuple(
            dict(group.resources)
            for group in config.node_group_configs
            for _ in range(min(group.max_count if group.max_count >= 0 else config.max_nodes, 10_000))
        )
    return ()

"""No cluster, another one, a cluster that is gone: one sentence each, and at once. No cluster is started here."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dni_deploy.errors import UnavailableError
from dni_deploy.jobs.ray_options import RayOptions

pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")

from dni_deploy.jobs import ray_cluster
from dni_deploy.jobs.ray_cluster import ClusterRoom, connect_cluster, count_places, explain_connection_error

CPU_NODE, GPU_NODE = {"CPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}


@contextmanager
def serve(answer: bytes | None) -> Iterator[str]:
    """A server that answers each connection with some bytes, or not at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def work() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                if answer is None:
                    done.wait(5)
                else:
                    connection.sendall(answer)

        done = threading.Event()
        thread = threading.Thread(target=work)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        done.set()
        thread.join()


def find_error(address: str) -> str:
    with pytest.raises(UnavailableError) as caught, connect_cluster(RayOptions(ray=address)):
        pass
    return str(caught.value)


def find_closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_closed_port_is_said_at_once(scheme: str) -> None:
    address = f"{scheme}{find_closed_port()}"
    assert find_error(address) == f"No Ray cluster answers at {address}: connection refused."


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\0"])
def test_another_server_is_not_taken_for_ray(answer: bytes) -> None:
    with serve(answer) as address:
        assert find_error(address) == f"No Ray cluster answers at {address}: what is there is not Ray."


def test_a_server_that_says_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "CONNECT_TIMEOUT_S", 0.05)
    with serve(None) as address:
        assert "no answer within" in find_error(address)


def test_a_server_of_grpc_passes() -> None:
    with serve(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))) as address:
        assert ray_cluster._knock("127.0.0.1", int(address.rpartition(":")[2])) is None


def test_the_file_of_a_cluster_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = tmp_path / "ray" / "ray_current_cluster"
    path.parent.mkdir()
    path.write_text(find_closed_port())
    sentence = find_error("auto")
    assert sentence.startswith(f"{path} names a Ray cluster at 127.0.0.1:")
    assert "that is gone (connection refused): remove this file" in sentence
    path.write_text("nonsense")
    assert find_error("auto") == f"{path} holds nonsense, which is no address of a Ray cluster."


def test_the_address_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    address = find_closed_port()
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert find_error("auto") == f"No Ray cluster answers at {address}: connection refused."
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert find_error("auto") == "RAY_ADDRESS holds http://head:8265, which is no address of a Ray cluster."


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError(
                "Version mismatch: The cluster was started with:\n    Ray: 2.55.0\n    Python: 3.10.4\n"
                "This process on node 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
            ),
            "The cluster has Ray 2.55.0 and Python 3.10.4, and this is Ray 2.60.0 and Python 3.11.7: both have to be the same.",
        ),
        (
            ConnectionError("Could not find any running Ray instance. Please specify"),
            "No Ray cluster runs on this machine: start one with `ray start --head`, name its HOST:PORT, or give --ray local.",
        ),
        (
            RuntimeError("InvalidAuthToken: Unauthenticated"),
            "The cluster at h:1 asks for a token: set RAY_AUTH_TOKEN to its own, or RAY_AUTH_TOKEN_PATH.",
        ),
        (
            ModuleNotFoundError("No module named 'grpc'", name="grpc"),
            "Ray needs the package grpc for h:1: pip install grpcio",
        ),
        (OSError("\n  first line\nsecond"), "Ray cannot connect to h:1: first line"),
        (OSError(), "Ray cannot connect to h:1: OSError"),
    ],
)
def test_errors_of_ray_become_one_sentence(error: Exception, expected: str) -> None:
    assert explain_connection_error("h:1", error) == expected


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "places"),
    [
        ([], 1, 0, 0),
        ([{}], 1, 0, 0),  # a head that does no work
        ([{}, CPU_NODE], 1, 0, 8),
        ([CPU_NODE, CPU_NODE], 3, 0, 4),  # no worker is spread over two machines
        ([CPU_NODE, GPU_NODE], 1, 1, 4),
        ([GPU_NODE], 4, 1, 4),
        ([GPU_NODE], 5, 1, 3),
        ([GPU_NODE], 1, 0.25, 16),
        ([GPU_NODE], 1, 0.4, 8),  # 2 on each GPU
        ([GPU_NODE], 1, 3, 1),
        ([GPU_NODE], 2, 0.1, 8),
    ],
)
def test_workers_fit_into_machines(nodes: list[dict[str, float]], cpus: int, gpus: float, places: int) -> None:
    assert count_places(nodes, cpus, gpus) == places


@pytest.mark.parametrize(
    ("gpus", "uses_gpu", "nodes", "expected"),
    [
        (None, None, [CPU_NODE], 0),
        (None, None, [CPU_NODE, GPU_NODE], 1),
        (None, False, [GPU_NODE], 0),
        (None, True, [CPU_NODE], 1),
        (0.5, None, [GPU_NODE], 0.5),
        (0, True, [GPU_NODE], 0),
    ],
)
def test_gpus_of_a_worker(gpus: float | None, uses_gpu: bool | None, nodes: list[dict[str, float]], expected: float) -> None:
    assert ClusterRoom(tuple(nodes)).choose_gpus(RayOptions(ray="auto", gpus=gpus), uses_gpu=uses_gpu) == expected


def test_a_cluster_that_grows_is_waited_for() -> None:
    room, growing = ClusterRoom((CPU_NODE,)), ClusterRoom((CPU_NODE,), (GPU_NODE,) * 2)
    with pytest.raises(
        UnavailableError, match=r"room for no worker with 1 GPU and 1 CPU, and this job needs 6\. .* in 1 machine\."
    ):
        room.choose_worker_count(RayOptions(ray="auto", workers=6), 1.0)
    assert growing.choose_worker_count(RayOptions(ray="auto", workers=6), 1.0) == 6
    assert growing.choose_worker_count(RayOptions(), 1.0) == 8  # there is no GPU yet
    assert room.choose_worker_count(RayOptions(), 0.0) == 8
    with pytest.raises(UnavailableError, match="room for 8 workers with 1 GPU"):
        growing.choose_worker_count(RayOptions(ray="auto", workers=9), 1.0)


def test_what_ray_prints_goes_into_the_log(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    from ray._private import worker

    before = worker.print_to_stdstream
    with ray_cluster._log_printed_lines(), caplog.at_level("INFO", logger="dni_deploy"):
        worker.print_to_stdstream({"lines": ["A raylet is gone."], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert worker.print_to_stdstream is before
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["Ray: A raylet is gone."]

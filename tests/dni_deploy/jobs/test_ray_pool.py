"""Units on the workers of a real Ray cluster: a head that does no work, and machines as raylets of their own. Workers get killed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.errors import BundleError, DniError
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.jobs.unit import UnitRow
from dni_deploy.utils.progress import OptionalProgress
from tests.support.ray_units import Piece, PieceFactory, list_pieces

pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")

import psutil
from ray.cluster_utils import Cluster

from dni_deploy.jobs import ray_pool, ray_worker
from dni_deploy.jobs.ray_cluster import connect_cluster
from dni_deploy.jobs.ray_pool import RayWorkers

pytestmark = pytest.mark.slow

STORE = {"object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    root = os.fspath(Path(__file__).parents[3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_worker, "MAX_LATE_SECONDS", 0.2)  # travels with the worker's code
        patch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **STORE})
        for _ in range(2):
            cluster.add_node(num_cpus=1, **STORE)
        with connect_cluster(RayOptions(ray=cluster.address)):  # once for all tests
            yield cluster
        cluster.shutdown()


def run_pieces(
    cluster: Cluster, factory: PieceFactory, units: Sequence[Piece], progress: OptionalProgress = None, **more: Any
) -> Generator[UnitRow, None, None]:
    names = [field.name for field in fields(RayOptions) if field.name in more]
    options = RayOptions(ray=cluster.address, **{name: more.pop(name) for name in names})
    with closing(RayWorkers(factory, options, progress=progress, **more)) as workers:
        yield from workers.run_units(units, progress)


def check_rows(rows: Iterable[UnitRow], folder: Path, count: int, failed: Iterable[str] = ()) -> None:
    """Every unit has one row and, unless it failed, its whole output."""
    rows = list(rows)
    names = [piece.id for piece in list_pieces(count)]
    assert Counter(row.unit for row in rows) == Counter(names)
    assert {row.unit for row in rows if row.error is not None} == set(failed)
    assert {path.name for path in folder.iterdir() if path.name.startswith("p")} == set(names) - set(failed)


def find_workers(cluster: Cluster) -> set[int]:
    """The processes of workers of a cluster."""
    pids = set()
    for node in cluster.list_all_nodes():
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if "".join(process.cmdline()[:1]).startswith("ray::RayWorker"):
                        pids.add(process.pid)
    return pids


def test_a_unit_that_kills_its_worker_is_a_row_and_all_others_are_done(cluster: Cluster, tmp_path: Path) -> None:
    factory = PieceFactory(os.fspath(tmp_path), 0.01, killers=frozenset({"p000025"}), broken=frozenset({"p000003"}))
    reports: list[tuple[int, int, str]] = []
    recorded: list[UnitRow] = []
    rows = list(
        run_pieces(cluster, factory, list_pieces(60), lambda *report: reports.append(report), record_row=recorded.append)
    )
    check_rows(rows, tmp_path, 60, {"p000003", "p000025"})
    assert [row.unit for row in recorded] == ["p000025"]
    assert reports[0] == (0, 0, "starting 2 workers")
    assert reports[-1][:2] == (60, 60)
    assert "of 2 workers, 2 failed" in reports[-1][2]
    assert {note for row in rows for note in row.notes} == {"threads 1"}


def test_killed_workers_lose_no_unit(cluster: Cluster, tmp_path: Path) -> None:
    with closing(run_pieces(cluster, PieceFactory(os.fspath(tmp_path), 0.02), list_pieces(120))) as job:
        rows = []
        for row in job:
            rows.append(row)
            if len(rows) in (20, 60):
                os.kill(find_workers(cluster).pop(), signal.SIGKILL)
    check_rows(rows, tmp_path, 120)


def test_workers_that_cannot_open_again_are_left_out_until_none_is_left(cluster: Cluster, tmp_path: Path) -> None:
    factory = PieceFactory(os.fspath(tmp_path), 0.01, killers=frozenset({"p000003"}), most_openings=2)
    rows: list[UnitRow] = []
    job = run_pieces(cluster, factory, list_pieces(60))
    with pytest.raises(BundleError, match="has changed"):
        rows.extend(job)  # the worker that is left goes on until it dies alone with the unit that kills
    assert rows
    assert all(row.error is None for row in rows)


def test_a_machine_that_is_gone_loses_no_unit(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, **STORE)
    with closing(run_pieces(cluster, PieceFactory(os.fspath(tmp_path), 0.1), list_pieces(80), workers=3)) as job:
        rows = []
        for row in job:
            rows.append(row)
            if len(rows) == 20:
                os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    check_rows(rows, tmp_path, 80)
    cluster.remove_node(node, allow_graceful=False)


def stop_when_started(done: int, total: int, what: str) -> None:
    """Ctrl-C when there are workers."""
    if total:
        raise KeyboardInterrupt


def test_a_job_that_is_closed_leaves_no_worker(cluster: Cluster, tmp_path: Path) -> None:
    job = run_pieces(cluster, PieceFactory(os.fspath(tmp_path), 30.0), list_pieces(8), stop_when_started)
    with pytest.raises(KeyboardInterrupt):
        next(job)
    end = time.monotonic() + 5
    while find_workers(cluster) and time.monotonic() < end:
        time.sleep(0.1)
    assert not find_workers(cluster)


def test_what_every_unit_would_meet_ends_the_job(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(factory: PieceFactory, *paths: Path, **options: Any) -> DniError:
        with pytest.raises(DniError) as caught:
            list(run_pieces(cluster, factory, list_pieces(2), shared_paths=paths, **options))
        return caught.value

    error = fail(PieceFactory("", is_unusable=True))
    assert isinstance(error, BundleError)
    assert str(error).endswith(": x.dni is damaged.")
    error = fail(PieceFactory(""), gpus=2)
    assert "room for no worker with 2 GPUs and 1 CPU, and this job needs 1. It has 0 GPUs and " in str(error)
    assert error.exit_code == 7
    error = fail(PieceFactory(""), workers=9)
    assert "with 1 CPU, and this job needs 9." in str(error)
    with monkeypatch.context() as patch:
        patch.setattr(ray_pool, "describe_path", lambda path: "folder")
        error = fail(PieceFactory(""), tmp_path / "only-here")
    assert f"cannot read {tmp_path}/only-here: put it on shared storage" in str(error)
    with monkeypatch.context() as patch:
        patch.setattr(ray_pool, "describe_path", lambda path: "another digest")
        error = fail(PieceFactory(""), tmp_path)
    assert f"finds something else at {tmp_path}: put it on shared storage" in str(error)
    with monkeypatch.context() as patch:
        patch.setattr(ray_pool, "__version__", "9.9")
        error = fail(PieceFactory(""))
    assert "and this is 9.9: install one of them on both." in str(error)
    error = fail(PieceFactory(""), versions={"numpy": "1.0"})
    assert " and this is 1.0: " in str(error)

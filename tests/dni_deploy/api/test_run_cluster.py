"""Images by several workers are those of one process, in their order; what a cluster cannot do is refused. None is started here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dni_deploy.api import run as run_module
from dni_deploy.api.run import RunReport, run
from dni_deploy.errors import PartialResultError, UsageError
from dni_deploy.jobs.shard import JobOptions
from dni_deploy.session.options import SessionOptions
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from tests.support.frame_session import Dimmer, named_bundle, run_over
from tests.support.local_workers import LocalWorkers, replace_cluster


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[LocalWorkers]:
    run_over(monkeypatch, Dimmer((1.0, 0.0)))
    return replace_cluster(monkeypatch, run_module)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """in/ with twelve images, from the folder above."""
    path = tmp_path / "in"
    path.mkdir()
    for number in range(12):
        Image.fromarray(np.full((6, 8, 3), 10 * number, np.uint8)).save(path / f"{number:02d}.png")
    monkeypatch.chdir(tmp_path)
    return path


def run_on_cluster(inputs: Any = "in", output: str = "out/", **options: Any) -> RunReport:
    job = JobOptions(ray="auto", cpus=2, **{"resume": False, **options.pop("job", {})})
    return run(named_bundle(), inputs, output, 0.5, job=job, **options)


def read_outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_all_workers_together_do_the_folder(tmp_path: Path, folder: Path, opened: list[LocalWorkers]) -> None:
    run(named_bundle(), folder, "whole/", 0.5)
    report = run_on_cluster(alpha_map=None)
    assert [Path(image.source).name for image in report.images] == [f"{number:02d}.png" for number in range(12)]
    assert read_outputs(tmp_path / "out") == read_outputs(tmp_path / "whole")
    (workers,) = opened
    assert all(Path(image.source).is_absolute() and Path(image.output).is_absolute() for image in report.images)
    assert workers.options["job_folder"] == tmp_path / "out" / ".dni-job"
    assert str(folder) in workers.options["other_paths"]
    assert workers.options["bundle"].path.is_absolute()
    assert "pillow" in workers.options["versions"]
    assert workers._factories[0].session_options.threads == 2


def test_a_job_goes_on(tmp_path: Path, folder: Path, opened: list[LocalWorkers]) -> None:
    (folder / "05.png").write_bytes(b"damaged")
    with pytest.raises(PartialResultError, match="11 of 12 images were processed") as caught:
        run_on_cluster()
    assert isinstance(caught.value.report, RunReport)
    assert [Path(failure.source).name for failure in caught.value.report.failed] == ["05.png"]
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / "05.png")
    (tmp_path / "out" / "07.png").unlink()
    report = run_on_cluster(job={"resume": True})
    assert [Path(image.source).name for image in report.images] == ["05.png", "07.png"]
    assert len(report.skipped["done"]) == 10


def test_paths_of_a_map_are_absolute(tmp_path: Path, folder: Path, opened: list[LocalWorkers]) -> None:
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "mask.png")
    run_on_cluster(alpha_map=AlphaMapOptions("mask.png", white=0.5))
    assert opened[0]._factories[0].map_options.mask == str(tmp_path / "mask.png")


def test_what_a_cluster_cannot_do_is_refused(tmp_path: Path, folder: Path, opened: list[LocalWorkers]) -> None:
    with pytest.raises(UsageError, match="names the file to write; a job is of a folder"):
        run_on_cluster("in/00.png", "out.png")
    with pytest.raises(UsageError, match="--ray and --shard both"):
        run_on_cluster(job={"shard": "1/2"})
    with pytest.raises(UsageError, match="--device 1"):
        run_on_cluster(options=SessionOptions(device=1))
    with pytest.raises(UsageError, match="--workers is for workers on a cluster"):
        JobOptions(workers=3)
    assert not opened
    assert not (tmp_path / "out").exists()

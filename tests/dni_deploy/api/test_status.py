"""status: what it says of jobs of images and of videos, and that it changes nothing."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dni_deploy.api import status as status_module
from dni_deploy.api.status import status
from dni_deploy.cli.main import main
from dni_deploy.errors import InputError
from dni_deploy.jobs.job_folder import JobFolder, open_job_folder
from dni_deploy.jobs.manifest import RowWriter
from dni_deploy.jobs.unit import UnitError, UnitOutput, UnitRow

Capture = pytest.CaptureFixture[str]
NOW = 1_800_000_000.0
SETTINGS = {"kind": "images", "alpha": {"psnr": 0.35, "gan": 0.65}}


@pytest.fixture(autouse=True)
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def write_rows(folder: Path, worker: str, count: int, *, failed: int = 0, ended: float = NOW, shard: str = "") -> None:
    """Writes the rows of a worker that took 0.5 s for each unit."""
    writer = RowWriter(folder, worker)
    for number in range(count + failed):
        unit = f"{worker}/{number}.png"
        finished = ended - 0.5 * (count + failed - 1 - number)
        row = UnitRow(unit, worker, shard, 0.5, engine="onnxruntime", machine="a CPU", finished=finished)
        if number < count:
            writer.append(replace(row, output=UnitOutput(unit, 3, "ab")))
        else:
            error = UnitError("ImageFileError", f"{unit} is a web page.", 3)
            writer.append(replace(row, error=error, details={"source": f"in/{unit}"}))
    writer.close()


def begin_job(output: Path, units: int = 100) -> JobFolder:
    with open_job_folder(output, SETTINGS, resume=True) as job:
        job.write_plan(units)
        job.check_engine({"engine": ["onnxruntime", None]})
        write_rows(job.path, "before", 0, failed=1, ended=NOW - 1000)
    return job


def test_a_running_job_has_the_rates_of_the_workers_at_work(tmp_path: Path) -> None:
    job = begin_job(tmp_path / "out")
    write_rows(job.path, "dead", 20, ended=NOW - 500)
    write_rows(job.path, "one", 10, failed=2, shard="1/2")
    write_rows(job.path, "two", 20, shard="2/2", ended=NOW - 3)
    with open_job_folder(tmp_path / "out", SETTINGS, resume=True):
        (found,) = status(tmp_path / "out")
    assert (found.state, found.kind, found.total, found.done, len(found.failures)) == ("running", "images", 100, 50, 3)
    assert [(worker.worker, worker.done, worker.failed, worker.shard) for worker in found.workers] == [
        ("before", 0, 1, ""), ("dead", 20, 0, ""), ("two", 20, 0, "2/2"), ("one", 10, 2, "1/2"),
    ]  # fmt: skip
    assert found.rate == pytest.approx(4.0)
    assert (found.remaining, found.eta_s) == (47, pytest.approx(47 / 4))
    assert found.settings["engine"] == ["onnxruntime", None]


def test_a_stopped_job_has_no_rate_and_a_finished_one_nothing_left(tmp_path: Path) -> None:
    job = begin_job(tmp_path / "out", 31)
    write_rows(job.path, "one", 20)
    (found,) = status(job.path)
    assert (found.state, found.rate, found.eta_s, found.remaining) == ("stopped", None, None, 10)
    write_rows(job.path, "two", 9, failed=1)
    (found,) = status(tmp_path / "out")
    assert (found.state, found.done, len(found.failures)) == ("finished", 29, 2)


def test_what_was_done_after_a_failure_has_not_failed(tmp_path: Path) -> None:
    job = begin_job(tmp_path / "out", 1)
    (before,) = status(tmp_path / "out")
    assert [failure.source for failure in before.failures] == ["in/before/0.png"]
    writer = RowWriter(job.path, "again")
    writer.append(UnitRow("before/0.png", "again", output=UnitOutput("before/0.png", 3, "ab"), finished=NOW))
    writer.close()
    (after,) = status(tmp_path / "out")
    assert (after.done, after.failures) == (1, ())


def test_a_video_has_its_segments_as_units(tmp_path: Path) -> None:
    folder = tmp_path / "out.mp4.dni-part"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({"schema": 3, "segment": 10, "engine": ["tensorrt", "fp16"]}))
    for number in range(3):
        path = folder / f"{number:06}.segment"
        path.touch()
        os.utime(path, (NOW - 20 + 2 * number,) * 2)
    for way in (tmp_path / "out.mp4", folder, tmp_path):
        (found,) = status(way)
        assert (found.kind, found.state, found.total, found.done) == ("video", "stopped", None, 3)
    (folder / "index.json").write_text(json.dumps({"times": list(range(61))}))
    (found,) = status(tmp_path / "out.mp4")
    assert (found.total, found.remaining) == (7, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status_module, "is_locked", lambda folder: True)
        (found,) = status(tmp_path / "out.mp4")
    assert (found.state, found.rate, found.eta_s) == ("running", pytest.approx(0.5), pytest.approx(8))


def test_names_of_a_videos_job_are_those_that_it_has() -> None:
    resume = pytest.importorskip("dni_deploy.video_io.resume")
    assert (resume.JOB_FOLDER_SUFFIX, resume.INDEX_FILE_NAME) == (
        status_module.VIDEO_JOB_SUFFIX,
        status_module.VIDEO_INDEX_NAME,
    )
    assert status_module.SEGMENT_NAME.fullmatch(resume.segment_path(Path("x"), 3).name)


@pytest.mark.parametrize("what", ["missing", "empty", "foreign", "file", "damaged"])
def test_what_has_no_job_is_one_sentence(tmp_path: Path, what: str, capsys: Capture) -> None:
    path = tmp_path / "out"
    if what == "file":
        path.touch()
    elif what != "missing":
        (path / ".dni-job").mkdir(parents=True)
        if what != "empty":
            (path / ".dni-job/job.json").write_text("[]" if what == "foreign" else "{")
    with pytest.raises(InputError, match="no job: neither"):
        status(path)
    assert main(["status", str(path)]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_damage_in_a_job_costs_what_is_damaged(tmp_path: Path) -> None:
    job = begin_job(tmp_path / "out")
    write_rows(job.path, "one", 5)
    for name in ("plan.json", "engine.json", "done-torn.jsonl"):
        (job.path / name).write_bytes(b'{"unit": "a.pn')
    (found,) = status(tmp_path / "out")
    assert (found.total, found.done, found.state) == (None, 5, "stopped")


def test_status_changes_nothing(tmp_path: Path) -> None:
    job = begin_job(tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in [job.path, *job.path.iterdir()]}
    status(tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in [job.path, *job.path.iterdir()]} == before


def test_the_command_prints_a_table_and_json(tmp_path: Path, capsys: Capture) -> None:
    job = begin_job(tmp_path / "out", 41)
    write_rows(job.path, "one", 19, failed=1, shard="1/2")
    assert main(["status", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    for line in ("state      stopped", "done       19 of 41, 46%", "remaining  20", "alpha      psnr=0.35, gan=0.65"):
        assert line in out
    assert "failed     2; --failed lists them. First: before/0.png is a web page." in out
    assert [" ".join(line.split()) for line in out.splitlines() if line.startswith("one")] == [
        "one 1/2 a CPU 19 1 2 0:00:00 ago"
    ]
    assert main(["status", str(tmp_path / "out"), "--failed"]) == 0
    assert "in/one/19.png    one/19.png is a web page." in capsys.readouterr().out
    assert main(["status", str(tmp_path / "out"), "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (printed["state"], printed["total"], printed["done"], printed["failed"]) == ("stopped", 41, 19, 2)
    assert printed["workers"][1]["rate"] == 2.0
    assert printed["failures"][0]["message"] == "before/0.png is a web page."

"""run as a job: what was done stays, what is missing is done, and another job is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dni_deploy.api import run_images
from dni_deploy.api.run import RunReport, find_tasks, run
from dni_deploy.api.run_images import ImageResult, ImageWorkerFactory
from dni_deploy.errors import (
    BusyError,
    DniError,
    ImageFileError,
    InputError,
    LimitError,
    PartialResultError,
    UsageError,
)
from dni_deploy.imaging.image_tasks import ImageFileOptions, ImageTask
from dni_deploy.jobs.job_folder import JOB_FOLDER_NAME, open_job_folder
from dni_deploy.jobs.manifest import RowWriter, read_rows
from dni_deploy.jobs.shard import JobOptions
from dni_deploy.jobs.unit import UnitOutput, UnitRow
from dni_deploy.session.options import SessionOptions
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from dni_deploy.utils.atomic_write import DiskFullError
from dni_deploy.utils.hardware import cpu_name
from engines.cuda.driver import Driver
from tests.support.frame_session import Dimmer, named_bundle, run_over

RESUME = JobOptions()


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here, and flushing to the disk takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def dimmer(monkeypatch: pytest.MonkeyPatch) -> Dimmer:
    engine = Dimmer((1.0, 0.0))
    run_over(monkeypatch, engine)
    return engine


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """in/ with six images in two folders, and the path of the outputs."""
    for seed, name in enumerate(("a", "b", "c", "deep/d", "deep/e", "f")):
        path = tmp_path / f"in/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, seed)
    return tmp_path / "in", tmp_path / "out"


def write_image(path: Path, seed: int = 0) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)


def run_job(folders: tuple[Path, Path], alpha: Any = 0.5, **options: Any) -> RunReport:
    options = {"file_options": ImageFileOptions(recursive=True), **options}
    return run("x.dni", *folders, alpha, **options)


def read_outputs(folder: Path) -> dict[str, bytes]:
    """Everything but the job's own folder."""
    paths = (path for path in folder.rglob("*") if path.is_file() and JOB_FOLDER_NAME not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """Ends the run when so many images were written."""
    write, written = run_images.write_whole, []
    monkeypatch.setattr(run_images, "MAX_THREADS", 1)

    def write_and_stop(path: str, data: bytes, *, force: bool) -> None:
        if len(written) == count:
            raise error("stopped")
        write(path, data, force=force)
        written.append(path)

    monkeypatch.setattr(run_images, "write_whole", write_and_stop)


def stop_job(folders: tuple[Path, Path], count: int, **options: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(KeyboardInterrupt):
            run_job(folders, **options)


def test_a_stopped_run_is_resumed(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    run_job((folders[0], folders[0].with_name("whole")))
    stop_job(folders, 3)
    before = {name: (folders[1] / name).stat().st_mtime_ns for name in read_outputs(folders[1])}
    assert len(before) == 3
    calls: list[tuple[int, int]] = []
    report = run_job(folders, job=RESUME, progress=lambda done, total, what: calls.append((done, total)))
    assert len(report.images) == len(report.skipped["done"]) == 3
    assert {name: (folders[1] / name).stat().st_mtime_ns for name in before} == before
    assert read_outputs(folders[1]) == read_outputs(folders[0].with_name("whole"))
    assert (calls[0], calls[-1]) == ((3, 6), (6, 6))
    opened = dimmer.closed
    report = run_job(folders, job=RESUME)
    assert (report.images, len(report.skipped["done"]), dimmer.closed) == ((), 6, opened)  # no engine for nothing


def test_rows_say_what_was_made(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    run_job(folders)
    rows = {row.unit: row for row in read_rows(folders[1] / JOB_FOLDER_NAME)}
    assert sorted(rows) == ["a.png", "b.png", "c.png", "deep/d.png", "deep/e.png", "f.png"]
    row = rows["deep/d.png"]
    assert row.output is not None
    data = (folders[1] / row.output.path).read_bytes()
    assert (row.output.size, row.output.sha256) == (len(data), sha256(data).hexdigest())
    assert row.engine == "dimmer"
    assert row.machine == cpu_name()
    assert row.details["source"] == str(folders[0] / "deep/d.png")
    assert json.loads((folders[1] / JOB_FOLDER_NAME / "plan.json").read_bytes()) == {"units": 6}


def test_rows_of_a_gpu_name_it(folders: tuple[Path, Path], dimmer: Dimmer, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver((13, 0), (("NVIDIA L4", (8, 9)), ("NVIDIA H200", (9, 0))))
    monkeypatch.setattr("dni_deploy.session.session.query_driver", lambda: driver)
    run_job(folders, options=SessionOptions(device=1))
    assert {row.machine for row in read_rows(folders[1] / JOB_FOLDER_NAME)} == {"NVIDIA H200"}


def remove_output(source: Path, output: Path) -> None:
    (output / "b.png").unlink()


def cut_output(source: Path, output: Path) -> None:
    (output / "b.png").write_bytes(b"")


def replace_source(source: Path, output: Path) -> None:
    write_image(source / "b.png", 77)


def add_source(source: Path, output: Path) -> None:
    write_image(source / "new.png", 78)


def lose_row(source: Path, output: Path) -> None:
    """As where the machine stopped within a second of it."""
    (path,) = (output / JOB_FOLDER_NAME).glob("done-*")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b'"b.png"' not in line) + lines[0][:40])


@pytest.mark.parametrize("change", [remove_output, cut_output, replace_source, add_source, lose_row])
def test_what_rows_and_disk_do_not_agree_on_is_done_anew(
    folders: tuple[Path, Path], dimmer: Dimmer, change: Callable[[Path, Path], None]
) -> None:
    run_job(folders)
    change(*folders)
    report = run_job(folders, job=RESUME)
    assert [Path(row.output).name for row in report.images] == ["new.png" if change is add_source else "b.png"]
    run_job((folders[0], folders[0].with_name("whole")))
    assert read_outputs(folders[1]) == read_outputs(folders[0].with_name("whole"))


@pytest.mark.parametrize(
    ("differing", "options"),
    [
        ("alpha", {"alpha": 0.25}),
        ("bundle", {"bundle_path": named_bundle(digest="1" * 64)}),
        ("rules", {"options": SessionOptions(rules=["norm:*=0.2"])}),
        ("precision", {"options": SessionOptions(precision="fp16")}),
        ("tiles", {"tile": 64}),
        ("tiles", {"overlap": 3}),
        ("format", {"file_options": ImageFileOptions(recursive=True, file_format="jpg")}),
        ("format, quality", {"file_options": ImageFileOptions(recursive=True, file_format="jpg", quality=50)}),
        ("size", {"file_options": ImageFileOptions(recursive=True, outscale=2)}),
        ("size", {"file_options": ImageFileOptions(recursive=True, size=(4, 3))}),
        ("strip", {"file_options": ImageFileOptions(recursive=True, strip=True)}),
        ("suffix", {"file_options": ImageFileOptions(recursive=True, suffix="_x")}),
        ("alpha map", {"alpha_map": True}),
    ],
)
def test_a_job_of_other_settings_is_refused_by_name(
    folders: tuple[Path, Path], dimmer: Dimmer, differing: str, options: dict[str, Any]
) -> None:
    stop_job(folders, 1)
    before = read_outputs(folders[1])
    if "alpha_map" in options:
        Image.new("L", (8, 6)).save(folders[0].with_name("mask.png"))
        options = {"alpha_map": AlphaMapOptions(folders[0].with_name("mask.png"))}
    for job in (RESUME, JobOptions(shard="1/2"), JobOptions(shard="join")):
        arguments = {"bundle_path": "x.dni", "alpha": 0.5, "file_options": ImageFileOptions(recursive=True), **options}
        with pytest.raises(UsageError, match=f"holds a stopped job that differs in: {differing}\\. Give the same again"):
            run(inputs=folders[0], output=folders[1], job=job, **arguments)
    assert read_outputs(folders[1]) == before


def test_another_engine_is_refused_by_name(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    stop_job(folders, 3)
    for other in ("onnxruntime", "tensorrt"):
        with pytest.raises(UsageError, match="differs in: engine"):
            run_job(folders, job=RESUME, options=SessionOptions(engine=other))
    dimmer.plan_digest = "1" * 64  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="differs in: plan"):
        run_job(folders, job=RESUME)
    del dimmer.plan_digest  # type: ignore[attr-defined]
    dimmer.name = "another"
    with pytest.raises(UsageError, match="differs in: engine"):
        run_job(folders, job=RESUME)
    assert len(read_outputs(folders[1])) == 3


def test_what_the_job_did_not_make_is_not_replaced(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    folders[1].mkdir()
    (folders[1] / "b.png").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"b\.png exists; give --resume to go on .*, --force to replace or --skip-existing"):
        run_job(folders)
    with pytest.raises(UsageError, match=r"b\.png exists, and the job that is to be resumed has not made it"):
        run_job(folders, job=RESUME)
    assert read_outputs(folders[1]) == {"b.png": b"precious"}
    assert sorted(path.name for path in folders[1].iterdir()) == ["b.png"]  # nothing was begun
    (folders[1] / "b.png").unlink()
    run_job(folders)
    write_image(folders[0] / "new.png")
    (folders[1] / "new.png").write_bytes(b"precious")
    os.utime(folders[1] / "new.png", ns=(10**18, 10**18))
    with pytest.raises(UsageError, match=r"new\.png exists, and the job"):
        run_job(folders, job=RESUME)
    assert (folders[1] / "new.png").read_bytes() == b"precious"
    assert len(run_job(folders, job=RESUME, force=True).images) == 1


def test_a_fallback_does_not_replace_what_the_job_did_not_make(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    pixels = np.full((6, 8, 4), 200, np.uint8)
    for name in ("one.webp", "two.webp"):
        Image.fromarray(pixels).save(folders[0] / name, lossless=True)
    folders[1].mkdir()
    (folders[1] / "one.png").write_bytes(b"precious")
    os.utime(folders[1] / "one.png", ns=(10**18, 10**18))
    jpeg = ImageFileOptions(file_format="jpg")
    with pytest.raises(PartialResultError, match=r"one\.png exists"):
        run_job(folders, file_options=jpeg)
    assert (folders[1] / "one.png").read_bytes() == b"precious"
    with pytest.raises(PartialResultError, match=r"5 of 6 images were processed .*5 by a run before, 1 failed"):
        run_job(folders, file_options=jpeg, job=RESUME)
    (folders[1] / "one.png").unlink()
    report = run_job(folders, file_options=jpeg, job=RESUME)
    assert [Path(row.output).name for row in report.images] == ["one.png"]
    (folders[1] / "two.png").write_bytes(b"cut")
    report = run_job(folders, file_options=jpeg, job=RESUME)
    assert [Path(row.output).name for row in report.images] == ["two.png"]


def test_what_failed_is_done_again_and_what_vanished_is_a_row(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    (folders[0] / "b.png").write_bytes(b"<html>")

    def remove(done: int, total: int, what: str) -> None:
        (folders[0] / "f.png").unlink(missing_ok=True)

    with pytest.raises(PartialResultError, match=r"4 of 6 images were processed.*2 failed"):
        run_job(folders, progress=remove)
    errors = {row.unit: row.error.message for row in read_rows(folders[1] / JOB_FOLDER_NAME) if row.error}
    assert "is a web page" in errors["b.png"]
    assert "No such file" in errors["f.png"]
    for name in ("b", "f"):
        write_image(folders[0] / f"{name}.png")
    report = run_job(folders, job=RESUME)
    assert [Path(row.output).name for row in report.images] == ["b.png", "f.png"]


def test_a_full_disk_stops_the_run_and_it_is_resumed(
    folders: tuple[Path, Path], dimmer: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2, DiskFullError)
        with pytest.raises(LimitError, match=r"2 of 6 images are done, and the same command with --resume") as caught:
            run_job(folders)
    assert caught.value.exit_code == 6
    assert isinstance(caught.value.report, RunReport)
    assert len(caught.value.report.images) <= 2
    assert len(read_outputs(folders[1])) == 2
    assert len(run_job(folders, job=RESUME).images) == 4


def test_a_full_disk_stops_the_rows(folders: tuple[Path, Path], dimmer: Dimmer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowWriter, "_write", lambda writer, line: len(line) - 1)
    with pytest.raises(LimitError, match=r"job's file .* could not be written"):
        run_job(folders)


def test_a_job_that_cannot_begin_leaves_nothing(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise InputError("The bundle is damaged.")

    run_over(monkeypatch, Dimmer((1.0, 0.0)))
    monkeypatch.setattr(run_images, "open_session", fail)
    with pytest.raises(InputError, match="is damaged"):
        run_job(folders)
    assert not folders[1].exists()


def test_new_runs_into_a_folder_go_on_with_its_manifest_or_begin_another(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    job = folders[1] / JOB_FOLDER_NAME
    run_job(folders, file_options=ImageFileOptions())
    run("x.dni", [folders[0] / "deep/d.png", folders[0] / "deep/e.png"], folders[1], 0.5)
    assert len(list(read_rows(job))) == json.loads((job / "plan.json").read_bytes())["units"] == 6
    suffix = ImageFileOptions(suffix="_other")
    run_job(folders, 0.25, file_options=suffix)
    assert {row.unit[-10:] for row in read_rows(job)} == {"_other.png"}
    assert json.loads((job / "job.json").read_bytes())["alpha"] == {"a": 0.25, "b": 0.75}
    with pytest.raises(UsageError, match="differs in: alpha, suffix"):
        run_job(folders, job=RESUME, file_options=ImageFileOptions())


def test_a_run_beside_one_with_other_settings_does_without(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    run_job(folders)
    description = json.loads((folders[1] / JOB_FOLDER_NAME / "job.json").read_bytes())
    with open_job_folder(folders[1], {**description, "alpha": "another"}, resume=False):
        report = run_job(folders, 0.25, force=True)
        assert "this run cannot be resumed: Another run is working" in report.notes[-1]
        with pytest.raises(UsageError, match="differs in: alpha"):
            run_job(folders, job=RESUME)
    assert len(report.images) == 6


def test_a_single_image_leaves_no_manifest(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    run("x.dni", folders[0] / "a.png", folders[1], 0.5)
    assert [path.name for path in folders[1].iterdir()] == ["a.png"]
    with pytest.raises(UsageError, match="names the file to write; a job is of a folder"):
        run("x.dni", folders[0] / "a.png", folders[1] / "b.png", 0.5, job=RESUME)


def test_a_link_in_the_place_of_the_job_is_not_followed(folders: tuple[Path, Path], dimmer: Dimmer, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folders[1].mkdir()
    (folders[1] / JOB_FOLDER_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is not a folder of this program"):
        run_job(folders, job=RESUME)
    assert "cannot be resumed" in run_job(folders).notes[-1]
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_do_each_image_once_and_are_joined(folders: tuple[Path, Path], dimmer: Dimmer, count: int) -> None:
    run_job((folders[0], folders[0].with_name("whole")))
    done: list[str] = []
    for number in range(count, 0, -1):
        report = run_job(folders, job=JobOptions(shard=f"{number}/{count}"))
        done += [row.output for row in report.images]
        if number > 1 and number <= 6:
            with pytest.raises(UsageError, match=r"out lacks \d of 6 images: a\.png") as caught:
                run_job(folders, job=JobOptions(shard="join"))
            assert f"of {count} shards, run 1" in str(caught.value)
    assert len(done) == len(set(done)) == 6
    assert len(run_job(folders, job=JobOptions(shard="join")).skipped["done"]) == 6
    assert read_outputs(folders[1]) == read_outputs(folders[0].with_name("whole"))
    again = run_job(folders, job=JobOptions(shard=f"1/{count}"))
    assert again.images == ()
    assert {row.shard for row in read_rows(folders[1] / JOB_FOLDER_NAME)} == {
        f"{n}/{count}" for n in range(1, min(count, 6) + 1)
    }


def test_a_join_names_what_is_missing_and_why(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    join = JobOptions(shard="join")
    with pytest.raises(UsageError, match="nothing to join"):
        run_job(folders, job=join)
    (folders[0] / "b.png").write_bytes(b"<html>")
    with pytest.raises(PartialResultError):
        run_job(folders, job=JobOptions(shard="2/3"))
    for shard in ("1/3", "3/3"):
        run_job(folders, job=JobOptions(shard=shard))
    with pytest.raises(UsageError, match=r"out lacks 1 of 6 images: b\.png; of 3 shards, run 2 again\..*is a web page"):
        run_job(folders, job=join)
    description = json.loads((folders[1] / JOB_FOLDER_NAME / "job.json").read_bytes())
    with open_job_folder(folders[1], description, resume=True), pytest.raises(BusyError, match="Another run is working"):
        run_job(folders, job=join)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"job": JobOptions(shard="0/4")}, "the first one is 1"),
        ({"job": JobOptions(shard="5/4")}, "none of 1 to 4"),
        ({"job": JobOptions(max_failures="many")}, "neither a number"),
        ({"job": JobOptions(max_failures="101%")}, "neither a number"),
        ({"job": JobOptions(max_failures=-1)}, "neither a number"),
        ({"job": RESUME, "file_options": ImageFileOptions(skip_existing=True)}, "give one of them"),
        ({"job": JobOptions(shard="1/2"), "file_options": ImageFileOptions(skip_existing=True)}, "give one of them"),
    ],
)
def test_wrong_uses_write_nothing(folders: tuple[Path, Path], dimmer: Dimmer, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run_job(folders, **options)
    assert not folders[1].exists()


def make_broken(folder: Path, count: int, whole: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number:03}.png").write_bytes(b"<html>")
    for number in range(whole):
        write_image(folder / f"{count + number:03}.png", number)


@pytest.mark.parametrize(("limit", "failed"), [("2", 3), (2, 3), ("20%", 5), ("0", 1), ("0%", 1)])
def test_a_run_stops_when_more_fail_than_are_allowed(
    tmp_path: Path, dimmer: Dimmer, limit: str | int, failed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_images, "MAX_THREADS", 1)
    make_broken(tmp_path / "in", 10, 10)
    with pytest.raises(
        ImageFileError, match=f"{failed} failed, more than --max-failures {limit} allows. First: .*000.png"
    ) as caught:
        run("x.dni", tmp_path / "in", tmp_path / "out", 1, job=JobOptions(resume=False, max_failures=limit))
    assert isinstance(caught.value.report, RunReport)
    assert len(caught.value.report.failed) == failed
    with pytest.raises(PartialResultError, match=r"10 of 20 images were processed"):
        run("x.dni", tmp_path / "in", tmp_path / "out", 1, job=JobOptions(max_failures="50%"))


def test_a_run_stops_where_the_first_50_fail_alike(tmp_path: Path, dimmer: Dimmer) -> None:
    make_broken(tmp_path / "in", 60, 2)
    with pytest.raises(
        ImageFileError, match=r"The run stopped: 50 failed, the first 50 units failed with one sentence .*First: .*000"
    ):
        run("x.dni", tmp_path / "in", tmp_path / "out", 1)
    with pytest.raises(PartialResultError, match="2 of 62 images were processed"):
        run("x.dni", tmp_path / "in", tmp_path / "out", 1, job=JobOptions(max_failures="100%"))
    with pytest.raises(PartialResultError, match="2 of 62 images were processed"):  # two are done: it is not the setting
        run("x.dni", tmp_path / "in", tmp_path / "out", 1, job=RESUME)
    (tmp_path / "in/030.png").write_bytes(b"")  # another sentence
    with pytest.raises(PartialResultError, match="2 of 62 images were processed"):
        run("x.dni", tmp_path / "in", tmp_path / "other", 1)


def test_a_factory_travels_to_another_process(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    factory = ImageWorkerFactory(bundle=named_bundle(), alpha=0.5, map_options=AlphaMapOptions("mask.png"))
    assert pickle.loads(pickle.dumps(replace(factory, map_options=None))).alpha == 0.5


def test_errors_travel_as_rows(folders: tuple[Path, Path], dimmer: Dimmer) -> None:
    (folders[0] / "b.png").write_bytes(b"<html>")
    with pytest.raises(PartialResultError):
        run_job(folders)
    (row,) = (row for row in read_rows(folders[1] / JOB_FOLDER_NAME) if row.error)
    assert row.error is not None
    error = pickle.loads(pickle.dumps(row)).error.to_error()
    assert isinstance(error, ImageFileError)
    assert isinstance(error, DniError)
    assert row.details == {"source": str(folders[0] / "b.png")}


def test_workers_open_the_plan_that_the_job_names(
    folders: tuple[Path, Path], dimmer: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer plan that somebody has built since stops nobody."""
    dimmer.plan_digest = "1" * 64  # type: ignore[attr-defined]
    stop_job(folders, 3)
    open_session, asked = run_images.open_session, []

    def keep_options(bundle: object, options: SessionOptions, **keywords: Any) -> Any:
        asked.append(options.plan)
        return open_session(bundle, options, **keywords)

    monkeypatch.setattr(run_images, "open_session", keep_options)
    run_job(folders, job=RESUME)
    run_job(folders, force=True)
    assert asked == ["1" * 64, None]


def test_results_take_little_memory_and_rows_may_come_in_any_order(tmp_path: Path) -> None:
    tasks = [ImageTask("in", f"{number:05}.png", "out", "", f"{number:05}.png") for number in range(2000)]
    details = {"width": 2000, "height": 1000, "tiles": 4, "network_seconds": 0.5}
    rows = [UnitRow(task.id, "w", output=UnitOutput(task.id, 5, "ab"), details=details) for task in tasks]
    assert [task for _, task in find_tasks(rows, tasks)] == tasks
    tracemalloc.start()
    results = [ImageResult.from_row(row, task) for row, task in find_tasks(rows, tasks)]
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size / len(results) < 200  # bytes: 100,000 of them are no reason to run out of memory
    assert (results[3].source, results[3].output) == (os.path.join("in", "00003.png"), os.path.join("out", "00003.png"))
    shuffled = random.Random(0).sample(rows, len(rows))
    assert [task.id for _, task in find_tasks(shuffled, tasks)] == [row.unit for row in shuffled]

"""The folder of a job: begun by one of many, shared, kept apart from other settings, and nothing of others touched."""

from __future__ import annotations

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dni_deploy.errors import BusyError, InputError, UsageError
from dni_deploy.jobs.description import is_locked
from dni_deploy.jobs.job_folder import JOB_FOLDER_NAME, has_job, job_folder_path, open_job_folder
from dni_deploy.jobs.manifest import append_row
from dni_deploy.jobs.unit import UnitRow
from dni_deploy.utils.atomic_write import DiskFullError

SETTINGS = {"kind": "images", "alpha": 0.5}


def begin(output: Path) -> Path:
    with open_job_folder(output, SETTINGS, resume=False) as job:
        append_row(job.path, UnitRow("a.png", "w"))
    return job.path


@pytest.mark.parametrize("resume", [True, False])
def test_many_that_begin_at_once_have_one_job(tmp_path: Path, resume: bool, nervous: None) -> None:
    def open_it(number: int) -> int:
        with open_job_folder(tmp_path / "out", SETTINGS, resume=resume) as job:
            job.check_engine({"engine": "the same"})
            append_row(job.path, UnitRow(f"{number}.png", f"w{number}"))
            return job.started_ns

    for _ in range(10):
        with ThreadPoolExecutor(8) as executor:
            assert len(set(executor.map(open_it, range(8)))) == 1
    assert sorted(os.listdir(tmp_path / "out" / JOB_FOLDER_NAME)) == [
        *(f"done-w{number}.jsonl" for number in range(8)), "engine.json", "job.json", "lock",
    ]  # fmt: skip


def test_one_of_many_with_other_settings_is_refused(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(UsageError, match="differs in: alpha, more"):
        open_job_folder(tmp_path, {**SETTINGS, "alpha": 1, "more": 2}, resume=True).__enter__()
    with open_job_folder(tmp_path, SETTINGS, resume=True):
        assert is_locked(job_folder_path(tmp_path))
        with pytest.raises(BusyError):
            open_job_folder(tmp_path, {"alpha": 1}, resume=False).__enter__()
        with pytest.raises(BusyError):
            open_job_folder(tmp_path, SETTINGS, resume=True, alone=True).__enter__()
    assert not is_locked(job_folder_path(tmp_path))
    assert len(list(job_folder_path(tmp_path).glob("done-*"))) == 1


def test_a_new_job_forgets_the_one_before_and_touches_nothing_else(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    (folder / "notes.txt").write_text("mine")
    (folder / ".job.json.1-abcdef-01234567.part.json").write_text("of a killed process")
    with open_job_folder(tmp_path, {"alpha": 1}, resume=False) as job:
        assert json.loads((job.path / "job.json").read_bytes()) == {"schema": 1, "alpha": 1}
    assert not (folder / ".job.json.1-abcdef-01234567.part.json").exists()
    assert (folder / "notes.txt").exists()


def test_a_damaged_description_is_written_anew(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    (folder / "job.json").write_bytes(b"{")
    assert not has_job(tmp_path)
    with open_job_folder(tmp_path, SETTINGS, resume=True):
        assert has_job(tmp_path)


def test_a_job_in_which_nothing_was_done_is_removed_where_it_fails(tmp_path: Path) -> None:
    with pytest.raises(InputError), open_job_folder(tmp_path / "new", SETTINGS, resume=False):
        raise InputError("No engine.")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(InputError), open_job_folder(tmp_path / "old", SETTINGS, resume=False):
        raise InputError("No engine.")
    assert not list((tmp_path / "old").iterdir())
    folder = begin(tmp_path / "old")
    with pytest.raises(InputError), open_job_folder(tmp_path / "old", SETTINGS, resume=True):
        raise InputError("No engine.")
    assert (folder / "job.json").exists()
    with (
        open_job_folder(tmp_path / "shared", SETTINGS, resume=True),
        pytest.raises(InputError),
        open_job_folder(tmp_path / "shared", SETTINGS, resume=True),
    ):
        raise InputError("No engine.")  # another is at work
    assert has_job(tmp_path / "shared")


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be used"):
        open_job_folder(tmp_path / "file", SETTINGS, resume=True).__enter__()

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(DiskFullError, match="No space left"):
        open_job_folder(tmp_path / "out", SETTINGS, resume=True).__enter__()


def test_a_job_travels(tmp_path: Path) -> None:
    with open_job_folder(tmp_path, SETTINGS, resume=True) as job:
        there = pickle.loads(pickle.dumps(job))
        there.check_engine({"engine": "one"})
        with pytest.raises(UsageError, match="differs in: engine"):
            job.check_engine({"engine": "two"})
        assert job.read_engine()["engine"] == "one"

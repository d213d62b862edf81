"""The folder in an output folder that says what a job is and what of it is done, so that it is resumed, shared and watched."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dni_deploy.errors import BusyError, InputError, UsageError, escape_name
from dni_deploy.jobs.description import (
    JOB_FILE_NAME,
    LOCK_FILE_NAME,
    check_is_equal,
    find_differences,
    open_lock,
    read_description,
    write_description,
)
from dni_deploy.jobs.manifest import ROWS_NAME
from dni_deploy.utils.atomic_write import (
    DISK_FULL_ERRNOS,
    DiskFullError,
    remove_stale_files,
    sync_folder,
    write_bytes_atomically,
)
from dni_deploy.utils.file_lock import try_lock

JOB_FOLDER_NAME = ".dni-job"
ENGINE_FILE_NAME, PLAN_FILE_NAME = "engine.json", "plan.json"
JOB_SCHEMA_VERSION = 1

OTHER_SETTINGS_ADVICE = "Give the same again, or name another folder; without --resume and with --force it starts anew."

LOCK_PATIENCE_S = 5.0
"""How long to wait for a process that begins the job, or looks whether all of it is there."""

LOCK_PAUSE_S = 0.02

OWN_NAME = re.compile(rf"(job|engine|plan)\.json|{ROWS_NAME.pattern}|\.(job|engine|plan)\.json\..*\.part\.json")
"""What this program writes into the folder beside the lock. It removes nothing else from it."""


@dataclass(frozen=True)
class JobFolder:
    """An open job. It can be pickled.

    Attributes:
        path: The folder.
        is_resumed: What is done of it stays.
        started_ns: When it began, by the clock of the disk: an output that is not older is the job's own.
    """

    path: Path
    is_resumed: bool
    started_ns: int

    def check_engine(self, description: Mapping[str, Any]) -> None:
        """Checks what is known of the job only when an engine is open; the first worker of the job writes it.

        Raises:
            UsageError: The job has another engine.
        """
        path = self.path / ENGINE_FILE_NAME
        full = {"schema": JOB_SCHEMA_VERSION, **description}
        stored = read_description(path)
        if stored is None:
            write_description(path, full)
            stored = read_description(path) or {}
        check_is_equal(self.path, stored, full, OTHER_SETTINGS_ADVICE)

    def read_engine(self) -> dict[str, Any]:
        """Reads what `check_engine` wrote; empty where no engine was opened."""
        return read_description(self.path / ENGINE_FILE_NAME) or {}

    def write_plan(self, unit_count: int) -> None:
        """Writes how many units the job has."""
        write_bytes_atomically(self.path / PLAN_FILE_NAME, json.dumps({"units": unit_count}).encode(), force=True)


def job_folder_path(output: str | os.PathLike[str]) -> Path:
    """Returns the path of the job's folder of an output folder."""
    return Path(output, JOB_FOLDER_NAME)


def has_job(output: str | os.PathLike[str]) -> bool:
    """Tells whether an output folder holds a job."""
    return read_description(job_folder_path(output) / JOB_FILE_NAME) is not None


@contextmanager
def open_job_folder(
    output: str | os.PathLike[str], description: Mapping[str, Any], *, resume: bool, alone: bool = False
) -> Iterator[JobFolder]:
    """Opens the job in an output folder, or begins it. Others may work at it in the same way meanwhile.

    Args:
        output: The output folder; it is made where it is missing.
        description: Everything that the results depend on, as JSON, but for the engine.
        resume: Go on with the job that is there, and refuse another one. Else another one is forgotten.
        alone: Keep others away.

    Yields:
        The job.

    Raises:
        UsageError: The job has other settings, or the folder's place is taken by something else.
        BusyError: Others are working at it, or with other settings in the same folder.
        InputError: The folder cannot be made, or read.
        DiskFullError: There is no room for it.
    """
    folder = job_folder_path(output)
    full = {"schema": JOB_SCHEMA_VERSION, **description}
    has_output_folder = folder.parent.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise UsageError(f"{escape_name(folder)} is not a folder of this program; move it away. Nothing was written.")
        lock = open_lock(folder)
    except OSError as error:
        kind = DiskFullError if error.errno in DISK_FULL_ERRNOS else InputError
        raise kind(f"The job's folder {escape_name(folder)} cannot be used ({error.strerror}). Nothing was written.") from error
    try:
        path = folder / JOB_FILE_NAME
        _take_lock(lock, folder, shared=not alone)
        if not resume:
            if try_lock(lock):  # nobody is at work here
                _forget_job(folder, full)
            _take_lock(lock, folder, shared=True)
        stored = _write_or_read(path, full)
        if not resume and find_differences(stored, full):
            raise _make_busy_error(folder)
        check_is_equal(folder, stored, full, OTHER_SETTINGS_ADVICE)
        for name in (JOB_FILE_NAME, ENGINE_FILE_NAME, PLAN_FILE_NAME):
            remove_stale_files(folder / name)
        try:
            yield JobFolder(folder, resume, os.stat(path).st_mtime_ns)
        except BaseException:
            _remove_empty_job(folder, lock, has_output_folder)
            raise
    finally:
        with suppress(OSError):
            os.close(lock)


def _remove_empty_job(folder: Path, lock: int, keep_parent: bool) -> None:
    """Removes a job in which nothing was done, so that what cannot begin leaves nothing behind."""
    with suppress(OSError):
        if not any(ROWS_NAME.fullmatch(name) for name in os.listdir(folder)) and try_lock(lock):
            _remove_own_files(folder)
            (folder / LOCK_FILE_NAME).unlink()
            folder.rmdir()
            if not keep_parent:
                folder.parent.rmdir()


def _take_lock(descriptor: int, folder: Path, *, shared: bool) -> None:
    give_up_at = time.monotonic() + LOCK_PATIENCE_S * shared
    while not try_lock(descriptor, shared=shared):
        if time.monotonic() >= give_up_at:
            raise _make_busy_error(folder)
        time.sleep(LOCK_PAUSE_S)


def _make_busy_error(folder: Path) -> BusyError:
    return BusyError(f"Another run is working at {escape_name(folder.parent)} at this moment; wait for it.")


def _forget_job(folder: Path, description: Mapping[str, Any]) -> None:
    """Forgets a job of other settings, and of one with the same settings which engine it had."""
    if find_differences(read_description(folder / JOB_FILE_NAME) or {}, description):
        _remove_own_files(folder)
    (folder / ENGINE_FILE_NAME).unlink(missing_ok=True)


def _write_or_read(path: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the description of a job where there is none; returns what is there then."""
    if read_description(path) is None:
        if os.path.lexists(path) and read_description(path) is None:
            path.unlink()  # damaged: it was never there in part
        write_description(path, description)
    return read_description(path) or {}


def _remove_own_files(folder: Path) -> None:
    """Removes what this program made, the description last, so that a killed run leaves a job that is recognized."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name == JOB_FILE_NAME):
        if OWN_NAME.fullmatch(entry.name):
            with suppress(OSError):
                os.unlink(entry.path)
    sync_folder(folder)

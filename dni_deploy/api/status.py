"""Reports how far jobs are, running or stopped, from what is in their folders and nothing else."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dni_deploy.errors import InputError, escape_name
from dni_deploy.jobs.description import JOB_FILE_NAME, is_locked, read_description
from dni_deploy.jobs.job_folder import ENGINE_FILE_NAME, JOB_FOLDER_NAME, PLAN_FILE_NAME
from dni_deploy.jobs.manifest import read_rows
from dni_deploy.jobs.unit import UnitRow

VIDEO_JOB_SUFFIX = ".dni-part"
"""As video_io/resume.py names the folder of a video's job, which needs no FFmpeg to be looked at."""

VIDEO_INDEX_NAME, SEGMENT_NAME = "index.json", re.compile(r"\d{6}\.segment")

ACTIVE_S = 10.0
"""A worker whose last unit ended longer ago, by this and by five of its units, is not counted as working."""

RATED_SEGMENTS = 10
"""The newest segments of a video, by which its rate is measured where no worker has written rows."""


@dataclass
class WorkerStatus:
    """One worker of a job.

    Attributes:
        worker: Machine, process number and random digits.
        shard: "1/4"; "" without shards.
        engine: Name of the engine.
        machine: The kind of its machine.
        done: Number of units that it did.
        failed: Number of units that failed in it.
        first: When its first unit began, in seconds since 1970.
        last: When its last unit ended.
    """

    worker: str
    shard: str = ""
    engine: str = ""
    machine: str = ""
    done: int = 0
    failed: int = 0
    first: float = 0.0
    last: float = 0.0

    @property
    def rate(self) -> float:
        """Units a second, from its first to its last one."""
        return (self.done + self.failed) / max(self.last - self.first, 1e-3)

    def add(self, row: UnitRow) -> None:
        """Counts a unit."""
        self.shard, self.engine, self.machine = row.shard, row.engine or self.engine, row.machine
        self.done += row.error is None
        self.failed += row.error is not None
        if row.finished:
            began = row.finished - row.seconds
            self.first = min(self.first, began) if self.first else began
            self.last = max(self.last, row.finished)

    def is_active(self, now: float) -> bool:
        """Tells whether it may still be working."""
        return now - self.last < max(ACTIVE_S, 5 / self.rate)


@dataclass(frozen=True)
class FailureStatus:
    """A unit that has failed, and was not done since.

    Attributes:
        unit: Its id.
        source: What it is made of.
        kind: The error's fixed name.
        message: Its sentence.
        worker: Who did it.
    """

    unit: str
    source: str
    kind: str
    message: str
    worker: str


@dataclass(frozen=True)
class JobStatus:
    """How far a job is.

    Attributes:
        folder: The folder that says so.
        kind: "images", or "video", whose units are segments.
        state: "running", where a process works at it and the file system has locks; "finished", where no unit is left but those
            that failed; or "stopped".
        total: Number of units; None where it is not known yet.
        done: Number of units that are done.
        failures: The units that have failed.
        rate: Units a second of the workers that are at work; None where none is.
        eta_s: Seconds until the rest is done at this rate; None where it is not known.
        workers: Who has done it.
        settings: What the job's results depend on.
    """

    folder: str
    kind: str
    state: str
    total: int | None
    done: int
    failures: tuple[FailureStatus, ...] = ()
    rate: float | None = None
    eta_s: float | None = None
    workers: tuple[WorkerStatus, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def remaining(self) -> int | None:
        """Number of units that are neither done nor have failed."""
        return None if self.total is None else max(self.total - self.done - len(self.failures), 0)

    def to_json(self) -> dict[str, Any]:
        """Returns the status as `--json` prints it."""
        workers = [{**asdict(worker), "rate": round(worker.rate, 3)} for worker in self.workers]
        return {**asdict(self), "workers": workers, "failed": len(self.failures), "remaining": self.remaining}


def status(output: str | os.PathLike[str]) -> list[JobStatus]:
    """Reports how far the jobs of an output are. It changes nothing, and works while they run.

    Args:
        output: A folder that `run` writes to; a video that `video` writes, or the folder that several go to; or a job's own
            folder.

    Returns:
        The jobs, by the names of their folders.

    Raises:
        InputError: There is no job.
    """
    folders = _find_job_folders(Path(output))
    if not folders:
        where = escape_name(output)
        what = "holds no job" if os.path.isdir(output) else "has no job"
        raise InputError(
            f"{where} {what}: neither {JOB_FOLDER_NAME} of `dni-deploy run` nor a {VIDEO_JOB_SUFFIX} folder of a video that is "
            "not finished is there."
        )
    return [
        _read_video_job(folder) if folder.name.endswith(VIDEO_JOB_SUFFIX) else _read_image_job(folder) for folder in folders
    ]


def _find_job_folders(output: Path) -> list[Path]:
    is_named_itself = output.name == JOB_FOLDER_NAME or output.name.endswith(VIDEO_JOB_SUFFIX)
    candidates = [output] if is_named_itself else [output / JOB_FOLDER_NAME, output.with_name(output.name + VIDEO_JOB_SUFFIX)]
    if output.is_dir() and not is_named_itself:
        candidates += sorted(output.glob(f"*{VIDEO_JOB_SUFFIX}"))
    return [folder for folder in candidates if read_description(folder / JOB_FILE_NAME) is not None]


def _read_image_job(folder: Path) -> JobStatus:
    settings = {**(read_description(folder / JOB_FILE_NAME) or {}), **(read_description(folder / ENGINE_FILE_NAME) or {})}
    plan = _read_json(folder / PLAN_FILE_NAME)
    total = plan.get("units") if isinstance(plan.get("units"), int) else None
    workers, failures, done = _read_workers(read_rows(folder))
    return _make_status(folder, "images", total, len(done), (workers, failures), settings)


def _read_video_job(folder: Path) -> JobStatus:
    """The units of a video are its segments: those that are whole are done."""
    settings = read_description(folder / JOB_FILE_NAME) or {}
    with os.scandir(folder) as entries:
        times = sorted(entry.stat().st_mtime for entry in entries if SEGMENT_NAME.fullmatch(entry.name))
    frames, segment = _read_json(folder / VIDEO_INDEX_NAME).get("times"), settings.get("segment")
    total = -(-len(frames) // segment) if isinstance(frames, list) and isinstance(segment, int) and segment > 0 else None
    workers, failures, _ = _read_workers(read_rows(folder))
    newest = times[-RATED_SEGMENTS:]
    own_rate = (len(newest) - 1) / (newest[-1] - newest[0]) if len(newest) > 1 and newest[-1] > newest[0] else 0.0
    return _make_status(folder, "video", total, len(times), (workers, failures), settings, own_rate)


def _read_json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
    return {}


def _read_workers(rows: Iterable[UnitRow]) -> tuple[list[WorkerStatus], list[FailureStatus], set[str]]:
    """Counts rows by worker; returns the workers, the units that have failed, and those that are done."""
    workers: dict[str, WorkerStatus] = {}
    failures: dict[str, tuple[float, FailureStatus]] = {}
    done: dict[str, float] = {}
    for row in rows:
        workers.setdefault(row.worker, WorkerStatus(row.worker)).add(row)
        if row.error is None:
            done[row.unit] = max(row.finished, done.get(row.unit, 0.0))
        elif row.unit not in failures or row.finished >= failures[row.unit][0]:
            source = str(row.details.get("source", ""))
            failures[row.unit] = row.finished, FailureStatus(row.unit, source, row.error.kind, row.error.message, row.worker)
    failed = {unit: failure for unit, (finished, failure) in sorted(failures.items()) if finished > done.get(unit, -1.0)}
    return (
        sorted(workers.values(), key=lambda worker: worker.first),
        list(failed.values()),
        done.keys() - failed.keys(),
    )


def _make_status(
    folder: Path,
    kind: str,
    total: int | None,
    done: int,
    found: tuple[list[WorkerStatus], list[FailureStatus]],
    settings: Mapping[str, Any],
    own_rate: float = 0.0,
) -> JobStatus:
    workers, failures = found
    is_running = is_locked(folder)
    now = time.time()
    rate = (sum(worker.rate for worker in workers if worker.is_active(now)) or own_rate) if is_running else 0.0
    remaining = None if total is None else max(total - done - len(failures), 0)
    return JobStatus(
        folder=os.fspath(folder),
        kind=kind,
        state="running" if is_running else "finished" if remaining == 0 else "stopped",
        total=total,
        done=done,
        failures=tuple(failures),
        rate=rate or None,
        eta_s=remaining / rate if rate and remaining is not None else None,
        workers=tuple(workers),
        settings=settings,
    )

"""Job: the folder beside the output in which a film is made segment by segment, and by which a stopped run is taken up."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from dni_deploy.errors import BusyError, InputError, UsageError, escape_name
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS, sync_folder, write_bytes
from dni_deploy.video_io.segments import Segment, SegmentWriter, open_segment, segment_path

try:
    import fcntl
except ImportError:  # Windows has no such lock; two runs on one output are then told apart by nothing
    fcntl = None  # type: ignore[assignment]

JOB_FOLDER_SUFFIX = ".dni-part"
JOB_FILE_NAME, LOCK_FILE_NAME, LOG_STARTED_FILE_NAME = "job.json", "lock", "logged"
JOB_SCHEMA_VERSION = 1
FINGERPRINT_BYTES = 1 << 20
"""So many bytes at the film's beginning and end stand for its content."""


@dataclass
class VideoJob:
    """A folder and the whole segments in it, in order.

    kept: how many frames were there when the job was taken up.
    """

    folder: Path
    segments: list[Segment] = field(default_factory=list)
    resumed_frames: int = 0

    @property
    def frames(self) -> int:
        return sum(segment.frames for segment in self.segments)

    def begin_segment(self) -> SegmentWriter:
        """The next segment, to be filled."""
        return SegmentWriter(self.folder, len(self.segments), self.frames)

    def mark_log_started(self) -> None:
        """From here on the alpha log may be there already, put there by this job."""
        (self.folder / LOG_STARTED_FILE_NAME).touch()

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def job_folder_path(output: Path) -> Path:
    return output.with_name(output.name + JOB_FOLDER_SUFFIX)


def has_started_log(output: Path) -> bool:
    """Whether a stopped job for this output came as far as its alpha log, which may then be replaced."""
    return (job_folder_path(output) / LOG_STARTED_FILE_NAME).exists()


def fingerprint_file(path: Path) -> dict[str, Any]:
    """What tells one film from another: size, time of change, SHA-256 of head and tail."""
    status = os.stat(path)
    digest = sha256()
    with open(path, "rb") as file:
        digest.update(file.read(FINGERPRINT_BYTES))
        file.seek(max(0, status.st_size - FINGERPRINT_BYTES))
        digest.update(file.read(FINGERPRINT_BYTES))
    return {"size": status.st_size, "changed": status.st_mtime_ns, "sha256 of head and tail": digest.hexdigest()}


@contextmanager
def open_job(output: Path, description: Mapping[str, Any], *, fresh: bool = False) -> Iterator[VideoJob]:
    """The job for this output: a new one, or the one that was stopped, if its description is the same.

    description: JSON; everything that the segments depend on. fresh: what is there is thrown away.
    Nobody else can work at the same output meanwhile. The folder stays; whoever finishes the job removes it.
    Raises BusyError (another run is at it), UsageError (a stopped job of other settings), InputError (the folder cannot be made).
    """
    folder = job_folder_path(output)
    try:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / LOCK_FILE_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise
        raise InputError(
            f"The work folder {escape_name(folder)} cannot be made ({error.strerror}). Nothing was written."
        ) from error
    try:
        _lock_job(lock, output)
        yield _resume_or_create(folder, json.loads(json.dumps(description)), fresh)
    finally:
        os.close(lock)


def _lock_job(descriptor: int, output: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(
            f"Another run is writing {escape_name(output)} at this moment; wait for it, or name another output."
        ) from None
    except OSError:  # a file system without locks
        pass


def _resume_or_create(folder: Path, description: dict[str, Any], fresh: bool) -> VideoJob:
    path = folder / JOB_FILE_NAME
    wanted = {"schema": JOB_SCHEMA_VERSION, **description}
    if not fresh:
        found = _read_description(path)
        if found is not None and found != wanted:
            other = ", ".join(sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)))
            raise UsageError(
                f"{escape_name(folder)} holds a stopped job that differs in: {escape_name(other)}. Give the same again to go on with it, or "
                "--fresh to throw it away."
            )
        if found is not None:
            return _load_segments(folder)
    for entry in folder.iterdir():
        if entry.name != LOCK_FILE_NAME:
            with suppress(OSError):
                entry.unlink()
    write_bytes(path, json.dumps(wanted, indent=1).encode())
    sync_folder(folder)
    return VideoJob(folder)


def _read_description(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _load_segments(folder: Path) -> VideoJob:
    """The whole segments from the first one on; what is behind a gap is removed."""
    job = VideoJob(folder)
    while True:
        segment = open_segment(segment_path(folder, len(job.segments)))
        if segment is None or segment.first_frame != job.frames:
            break
        job.segments.append(segment)
    job.resumed_frames = job.frames
    whole = {segment.path for segment in job.segments} | {
        folder / JOB_FILE_NAME,
        folder / LOCK_FILE_NAME,
        folder / LOG_STARTED_FILE_NAME,
    }
    for entry in folder.iterdir():
        if entry not in whole:
            with suppress(OSError):
                entry.unlink()
    return job

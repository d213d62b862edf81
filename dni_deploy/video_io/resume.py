"""The job of one video: the folder beside the output in which segments are kept, so that a stopped run can be resumed."""

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
except ImportError:  # Windows has no such lock; nothing keeps two runs on one output apart there
    fcntl = None  # type: ignore[assignment]

JOB_FOLDER_SUFFIX = ".dni-part"
JOB_FILE_NAME, LOCK_FILE_NAME, LOG_STARTED_FILE_NAME = "job.json", "lock", "logged"
JOB_SCHEMA_VERSION = 2
"""1: color was converted in another way, so that segments of both would show where they meet."""

FINGERPRINT_BYTES = 1 << 20
"""Bytes at the beginning and at the end of a video that stand for its content."""


@dataclass
class VideoJob:
    """A job folder and the whole segments in it, in order.

    Attributes:
        folder: The folder.
        segments: The whole segments, from the first one on.
        resumed_frames: Number of frames that were there when the job was resumed.
    """

    folder: Path
    segments: list[Segment] = field(default_factory=list)
    resumed_frames: int = 0

    @property
    def frames(self) -> int:
        """Number of frames in whole segments."""
        return sum(segment.frames for segment in self.segments)

    def begin_segment(self) -> SegmentWriter:
        """Creates the next segment, to be filled."""
        return SegmentWriter(self.folder, len(self.segments), self.frames)

    def mark_log_started(self) -> None:
        """Records that an alpha log at its path may be of this job, so that a resumed run may replace it."""
        (self.folder / LOG_STARTED_FILE_NAME).touch()

    def remove(self) -> None:
        """Removes the folder and everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def job_folder_path(output: Path) -> Path:
    """Returns the path of the job folder of an output."""
    return output.with_name(output.name + JOB_FOLDER_SUFFIX)


def has_started_log(output: Path) -> bool:
    """Tells whether a stopped job for this output came as far as its alpha log, which may then be replaced."""
    return (job_folder_path(output) / LOG_STARTED_FILE_NAME).exists()


def fingerprint_file(path: Path) -> dict[str, Any]:
    """Describes what distinguishes one video from another: size, modification time, and SHA-256 of head and tail."""
    status = os.stat(path)
    digest = sha256()
    with open(path, "rb") as file:
        digest.update(file.read(FINGERPRINT_BYTES))
        file.seek(max(0, status.st_size - FINGERPRINT_BYTES))
        digest.update(file.read(FINGERPRINT_BYTES))
    return {"size": status.st_size, "changed": status.st_mtime_ns, "sha256 of head and tail": digest.hexdigest()}


@contextmanager
def open_job(output: Path, description: Mapping[str, Any], *, fresh: bool = False) -> Iterator[VideoJob]:
    """Opens the job for an output: a new one, or the one that was stopped where its description is the same.

    Nobody else can work at the same output meanwhile. The folder stays; whoever finishes the job removes it.

    Args:
        output: The path of the output.
        description: Everything that the segments depend on, as JSON.
        fresh: Discard a stopped job.

    Yields:
        The job.

    Raises:
        BusyError: Another run works at it.
        UsageError: A stopped job has another description.
        InputError: The folder cannot be made.
    """
    folder = job_folder_path(output)
    try:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / LOCK_FILE_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise
        raise InputError(
            f"The job folder {escape_name(folder)} cannot be made ({error.strerror}). Nothing was written."
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
    description = {"schema": JOB_SCHEMA_VERSION, **description}
    stopped = None if fresh else _read_description(path)
    if stopped == description:
        return _load_segments(folder)
    if stopped is not None:
        differing = sorted(key for key in description.keys() | stopped.keys() if description.get(key) != stopped.get(key))
        raise UsageError(
            f"{escape_name(folder)} holds a stopped job that differs in: {escape_name(', '.join(differing))}. "
            "Give the same again to resume it, or --fresh to discard it."
        )
    _remove_others(folder, {folder / LOCK_FILE_NAME})
    write_bytes(path, json.dumps(description, indent=1).encode())
    sync_folder(folder)
    return VideoJob(folder)


def _read_description(path: Path) -> dict[str, Any] | None:
    try:
        description = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return description if isinstance(description, dict) else None


def _load_segments(folder: Path) -> VideoJob:
    """Loads the whole segments from the first one on; what lies behind a gap is removed."""
    job = VideoJob(folder)
    while segment := open_segment(segment_path(folder, len(job.segments))):
        if segment.first_frame != job.frames:
            break
        job.segments.append(segment)
    job.resumed_frames = job.frames
    others = {folder / name for name in (JOB_FILE_NAME, LOCK_FILE_NAME, LOG_STARTED_FILE_NAME)}
    _remove_others(folder, others | {segment.path for segment in job.segments})
    return job


def _remove_others(folder: Path, kept: set[Path]) -> None:
    for entry in folder.iterdir():
        if entry not in kept:
            with suppress(OSError):
                entry.unlink()

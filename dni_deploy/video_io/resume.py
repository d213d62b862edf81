"""The job of one video: the folder beside the output in which segments are kept, so that a stopped run can be resumed."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from dni_deploy.errors import BusyError, InputError, UsageError, escape_name
from dni_deploy.jobs.description import (
    JOB_FILE_NAME,
    LOCK_FILE_NAME,
    check_is_equal,
    hold_lock,
    open_lock,
    read_description,
    write_description,
)
from dni_deploy.jobs.manifest import ROWS_NAME
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS, DiskFullError, sync_folder, write_bytes, write_bytes_atomically
from dni_deploy.utils.text_file import open_file
from dni_deploy.video_io.frame_index import FrameIndex, SegmentPlace
from dni_deploy.video_io.segments import Segment, SegmentWriter, open_segment, segment_path

JOB_FOLDER_SUFFIX = ".dni-part"
LOG_STARTED_FILE_NAME = "logged"
PUBLISHED_FILE_NAME, INDEX_FILE_NAME = "published.json", "index.json"
JOB_SCHEMA_VERSION = 3
"""1: color was converted in another way, so that segments of both would show where they meet. 2: timestamps that jump were not
corrected."""

BEFORE_DESCRIPTION_NAME = re.compile(r"lock|published\.json|\.job\.json\..*\.part\.json")
"""What is in a job folder whose run was killed before it had a description, or while it was removed."""

OWN_NAME = re.compile(
    r"(job|published|index)\.json|lock|logged|\d{6}\.segment(\.damaged)?|\d{6}\.(\d+-[0-9a-f]{8}\.)?part|done-.*\.jsonl|"
    r"\.(job|published|index)\.json\..*\.part\.json"
)
"""What this program writes into a job folder. It removes nothing else from it."""

LAST_REMOVED_NAMES = {JOB_FILE_NAME: 1, PUBLISHED_FILE_NAME: 2, LOCK_FILE_NAME: 3}
"""What is removed last, in this order, so that a run that is killed meanwhile leaves a folder that is recognized."""

RESUME_ADVICE = "Give the same again to resume it, or --fresh to discard it."

FINGERPRINT_BYTES = 1 << 20
"""Bytes at the beginning and at the end of a video that stand for its content."""


@dataclass
class VideoJob:
    """A job folder and the whole segments in it.

    Attributes:
        folder: The folder.
        segment_frames: Number of frames of every segment but the last.
        description: Everything that the segments depend on, as far as it was known when the job was opened.
        stored_description: What the job folder says of all else that they depend on; empty for a new job.
        is_shared: Other processes may work at the job, so that nothing of theirs is moved or removed.
        stored_segments: Whole segments by their number, of this run and of those before it. There may be gaps.
        resumed_frames: Number of frames that were there when the job was resumed.
        damaged_segments: Number of segments that could not be read then, and are made again.
    """

    folder: Path
    segment_frames: int
    description: dict[str, Any] = field(default_factory=dict)
    stored_description: dict[str, Any] = field(default_factory=dict)
    is_shared: bool = False
    stored_segments: dict[int, Segment] = field(default_factory=dict)
    resumed_frames: int = 0
    damaged_segments: int = 0

    @property
    def segments(self) -> list[Segment]:
        """The whole segments, in order."""
        return [self.stored_segments[number] for number in sorted(self.stored_segments)]

    @property
    def frames(self) -> int:
        """Number of frames in whole segments."""
        return sum(segment.frames for segment in self.stored_segments.values())

    def complete_description(self, fields: Mapping[str, Any]) -> None:
        """Adds what was not known when the job was opened to its description, and writes it if the job is new.

        Raises:
            UsageError: The job was made with something else.
        """
        path = self.folder / JOB_FILE_NAME
        description = {**self.description, **json.loads(json.dumps(fields))}
        if read_description(path) is None:
            if not self.is_shared:
                path.unlink(missing_ok=True)  # a damaged one
            write_description(path, description)
        check_is_equal(self.folder, read_description(path) or {}, description, RESUME_ADVICE)

    def check_has_no_gap(self) -> None:
        """Checks that the segments follow each other.

        Raises:
            InputError: Frames between them could not be read this time.
        """
        expected = 0
        for segment in self.segments:
            if segment.first_frame != expected:
                raise self.make_gap_error(expected, segment.first_frame)
            expected += segment.frames

    def make_gap_error(self, first: int, end: int) -> InputError:
        """Makes the error that says that frames could not be read."""
        return InputError(
            f"Frames {first} to {end - 1} of the video could not be read this time; others are done and kept in "
            f"{escape_name(self.folder)}. Give the same command again, or --fresh."
        )

    def load_segments(self, places: Collection[SegmentPlace], index: FrameIndex) -> None:
        """Loads those segments at some places that are whole and have the frames of the index.

        Others are forgotten, and become whole when they are made again.
        """
        for place in places:
            segment = open_segment(segment_path(self.folder, place.number))
            times = index.list_times(place.first_frame, place.frames)
            if segment is not None and segment.first_frame == place.first_frame and segment.has_times(times):
                self.stored_segments[place.number] = segment
            else:
                self.stored_segments.pop(place.number, None)

    def keep_segments_of(self, index: FrameIndex) -> bool:
        """Forgets the segments that do not have the frames of the index; returns whether there were any.

        Those whose timestamps differ were made before the video turned out to have other frames.
        """
        places = {place.number: place for place in index.list_segments(self.segment_frames)}
        kept = {}
        for number, segment in self.stored_segments.items():
            place = places.get(number)
            if place is not None and segment.has_times(index.list_times(place.first_frame, place.frames)):
                kept[number] = segment
        is_changed = len(kept) < len(self.stored_segments)
        self.stored_segments = kept
        self.resumed_frames = min(self.resumed_frames, self.frames)
        return is_changed

    def read_index(self) -> FrameIndex | None:
        """Reads the index of the video that a run before, or another process, made; None where there is none."""
        path = self.folder / INDEX_FILE_NAME
        try:
            return FrameIndex.from_json(json.loads(path.read_bytes())) if stat.S_ISREG(os.lstat(path).st_mode) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_index(self, index: FrameIndex) -> None:
        """Stores the index of the video. Every process makes the same one."""
        data = json.dumps(index.to_json(), separators=(",", ":")).encode()
        write_bytes_atomically(self.folder / INDEX_FILE_NAME, data, force=True)

    def begin_segment(self, first_frame: int) -> SegmentWriter:
        """Creates the segment that begins with a frame, to be filled."""
        return SegmentWriter(self.folder, first_frame // self.segment_frames, first_frame)

    def add_segment(self, segment: Segment) -> None:
        """Adds a segment that is whole."""
        self.stored_segments[segment.first_frame // self.segment_frames] = segment

    def mark_log_started(self) -> None:
        """Records that an alpha log at its path may be of this job, so that a resumed run may replace it."""
        path = self.folder / LOG_STARTED_FILE_NAME
        if not os.path.lexists(path):
            write_bytes(path, b"")

    def mark_published(self, temporary: Path) -> None:
        """Records which file gets the name of the output, just before it does; see `remove_published_job`."""
        path = self.folder / PUBLISHED_FILE_NAME
        write_bytes_atomically(path, json.dumps(_identify_file(temporary)).encode(), force=True)

    def remove(self) -> None:
        """Removes what this program wrote into the folder, and the folder if it is empty then."""
        _remove_own_files(self.folder)
        with suppress(OSError):
            self.folder.rmdir()


def job_folder_path(output: Path) -> Path:
    """Returns the path of the job folder of an output."""
    return output.with_name(output.name + JOB_FOLDER_SUFFIX)


def has_started_log(output: Path) -> bool:
    """Tells whether a stopped job for this output came as far as its alpha log, which may then be replaced."""
    return (job_folder_path(output) / LOG_STARTED_FILE_NAME).exists()


def remove_published_job(output: Path) -> None:
    """Removes the job folder of a run that was killed after its output had its name and before the folder was gone."""
    folder = job_folder_path(output)
    with suppress(OSError, ValueError, UsageError, BusyError):
        _check_is_job_folder(folder)
        with hold_lock(open_lock(folder), output):
            has_job = read_description(folder / JOB_FILE_NAME) is not None
            if not has_job or json.loads((folder / PUBLISHED_FILE_NAME).read_bytes()) == _identify_file(output):
                VideoJob(folder, 1).remove()


def _identify_file(path: Path) -> list[int]:
    status = os.stat(path)
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def fingerprint_file(path: Path) -> dict[str, Any]:
    """Describes what distinguishes one video from another: size, modification time, and SHA-256 of head and tail."""
    digest = sha256()
    with open_file(path, "video") as file:
        status = os.fstat(file.fileno())
        digest.update(file.read(FINGERPRINT_BYTES))
        file.seek(max(0, status.st_size - FINGERPRINT_BYTES))
        digest.update(file.read(FINGERPRINT_BYTES))
    return {"size": status.st_size, "changed": status.st_mtime_ns, "sha256 of head and tail": digest.hexdigest()}


@contextmanager
def open_job(
    output: Path,
    description: Mapping[str, Any],
    *,
    segment_frames: int,
    fresh: bool = False,
    shared: bool = False,
    unknown: Collection[str] = (),
) -> Iterator[VideoJob]:
    """Opens the job for an output: a new one, or the one that was stopped where its description is the same.

    Nobody else can work at the same output meanwhile, or only those that share it. The folder stays; whoever finishes the job
    removes it.

    Args:
        output: The path of the output.
        description: Everything that the segments depend on, as JSON.
        segment_frames: Number of frames of a segment.
        fresh: Discard a stopped job.
        shared: Others may work at it in the same way. The job then has no segments before `VideoJob.load_segments`.
        unknown: What is missing in the description. `VideoJob.complete_description` adds it before the first segment is made.

    Yields:
        The job.

    Raises:
        BusyError: Another run works at it.
        UsageError: A stopped job has another description, or the folder is none of a stopped job.
        InputError: The folder cannot be made.
        DiskFullError: There is no room for it.
    """
    folder = job_folder_path(output)
    try:
        with suppress(FileExistsError):
            folder.mkdir()
            sync_folder(folder.parent)
        _check_is_job_folder(folder)
        lock = open_lock(folder)
    except OSError as error:
        kind = DiskFullError if error.errno in DISK_FULL_ERRNOS else InputError
        raise kind(f"The job folder {escape_name(folder)} cannot be made ({error.strerror}). Nothing was written.") from error
    with hold_lock(lock, output, shared=shared):
        job = VideoJob(
            folder, segment_frames, {"schema": JOB_SCHEMA_VERSION, **json.loads(json.dumps(description))}, is_shared=shared
        )
        _resume_or_create(job, fresh, unknown)
        yield job


def is_stopped_job(output: Path) -> bool:
    """Tells whether there is a job folder with a description for an output."""
    return read_description(job_folder_path(output) / JOB_FILE_NAME) is not None


def _check_is_job_folder(folder: Path) -> None:
    """Refuses a folder that is not of this program and user, before anything in it is touched.

    Raises:
        UsageError: It is a link, no folder, someone else's, or has content without a description of a job.
    """
    status = os.lstat(folder)
    what = None
    if stat.S_ISLNK(status.st_mode):
        what = "is a link"
    elif not stat.S_ISDIR(status.st_mode):
        what = "is not a folder"
    elif hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        what = "belongs to another user"
    elif read_description(folder / JOB_FILE_NAME) is None and any(
        not BEFORE_DESCRIPTION_NAME.fullmatch(entry.name) or entry.is_symlink() for entry in os.scandir(folder)
    ):
        what = "is no stopped job: it has content and no description of one"
    if what is not None:
        raise UsageError(
            f"{escape_name(folder)} {what}, and nothing in it was touched; move it away, or name another output. "
            "Nothing was written."
        )


def _resume_or_create(job: VideoJob, fresh: bool, unknown: Collection[str]) -> None:
    stopped = None if fresh else read_description(job.folder / JOB_FILE_NAME)
    if stopped is not None:
        job.stored_description = {key: stopped.pop(key) for key in unknown if key in stopped}
        check_is_equal(job.folder, stopped, job.description, RESUME_ADVICE)
        if not job.is_shared:
            _load_segments(job)
        return
    if not job.is_shared:
        _remove_own_files(job.folder, {LOCK_FILE_NAME})
    if not unknown:
        job.complete_description({})


def _load_segments(job: VideoJob) -> None:
    """Loads the whole segments. One that is damaged is moved aside and made again."""
    numbers = sorted(int(entry.name[:6]) for entry in os.scandir(job.folder) if re.fullmatch(r"\d{6}\.segment", entry.name))
    for number in numbers:
        path = segment_path(job.folder, number)
        segment = open_segment(path)
        if segment is not None and segment.first_frame == number * job.segment_frames:
            job.stored_segments[number] = segment
        else:
            job.damaged_segments += 1
            os.replace(path, path.with_name(f"{path.name}.damaged"))
    job.resumed_frames = job.frames
    kept = {JOB_FILE_NAME, LOCK_FILE_NAME, LOG_STARTED_FILE_NAME, INDEX_FILE_NAME}
    kept |= {entry.name for entry in os.scandir(job.folder) if ROWS_NAME.fullmatch(entry.name)}
    _remove_own_files(job.folder, kept | {segment.path.name for segment in job.segments})


def _remove_own_files(folder: Path, kept: Set[str] = frozenset()) -> None:
    """Removes files and links that this program made; what else is in the folder stays, and so does what a link names."""
    for entry in sorted(os.scandir(folder), key=lambda entry: LAST_REMOVED_NAMES.get(entry.name, 0)):
        if OWN_NAME.fullmatch(entry.name) and entry.name not in kept:
            with suppress(OSError):
                os.unlink(entry.path)

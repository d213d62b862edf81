"""The description of a job on disk: everything that its results depend on, by which it is resumed or refused."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dni_deploy.errors import BusyError, UsageError, escape_name
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.file_lock import try_lock

JOB_FILE_NAME, LOCK_FILE_NAME = "job.json", "lock"

NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


def read_description(path: Path) -> dict[str, Any] | None:
    """Reads the description of a job; None where there is none of this program."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        description = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return description if isinstance(description, dict) and isinstance(description.get("schema"), int) else None


def write_description(path: Path, description: Mapping[str, Any]) -> None:
    """Writes the description of a new job, whole or not at all; where another process was faster, that one's stays.

    Raises:
        DniError: As `write_bytes_atomically`.
    """
    try:
        write_bytes_atomically(path, json.dumps(description, indent=1).encode())
    except UsageError:
        if read_description(path) is None:
            raise


def find_differences(stored: Mapping[str, Any], description: Mapping[str, Any]) -> list[str]:
    """Lists the names of what differs between two descriptions."""
    as_stored = json.loads(json.dumps(description))
    return sorted(key for key in as_stored.keys() | stored.keys() if as_stored.get(key) != stored.get(key))


def check_is_equal(folder: Path, stored: Mapping[str, Any], description: Mapping[str, Any], advice: str) -> None:
    """Checks that a job has the settings that it is to be resumed with.

    Raises:
        UsageError: It has others.
    """
    differing = find_differences(stored, description)
    if differing:
        raise UsageError(
            f"{escape_name(folder)} holds a stopped job that differs in: {escape_name(', '.join(differing))}. {advice}"
        )


def open_lock(folder: Path) -> int:
    """Opens the lock file of a job's folder, and makes it where there is none.

    Raises:
        OSError: It cannot be opened.
    """
    return os.open(folder / LOCK_FILE_NAME, os.O_RDWR | os.O_CREAT | NO_LINKS, 0o666)


@contextmanager
def hold_lock(descriptor: int, output: Path, *, shared: bool = False) -> Iterator[None]:
    """Keeps other runs away, or those that do not share the job; closes the descriptor at the end.

    Raises:
        BusyError: Another run holds the lock.
    """
    try:
        if not try_lock(descriptor, shared=shared):
            raise BusyError(
                f"Another run is writing {escape_name(output)} at this moment; wait for it, or name another output."
            )
        yield
    finally:
        with suppress(OSError):  # nothing was written through it
            os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Tells whether a process works at a job, where the file system has locks."""
    try:
        descriptor = os.open(folder / LOCK_FILE_NAME, (os.O_RDWR if os.name == "nt" else os.O_RDONLY) | NO_LINKS)
    except OSError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)

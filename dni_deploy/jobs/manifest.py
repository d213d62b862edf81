"""The rows of a job on disk: a file for each worker, to which it alone appends a line for each unit."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dni_deploy.errors import InputError, escape_name
from dni_deploy.jobs.unit import UnitRow
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS, DiskFullError

ROWS_NAME = re.compile(r"done-[^/\\]+\.jsonl")
"""The files of rows in a job's folder."""

SYNC_INTERVAL_S = 1.0
"""Rows of the last second may be lost where the machine stops; their units are then done again. A kill loses none."""


class RowWriter:
    """Appends rows to the file of one worker.

    Each row reaches the system at once, and the disk at least every SYNC_INTERVAL_S while rows come, and at the end.

    Thread safety: any thread may call any method.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        """Names the file; it is created with the first row."""
        name = re.sub(r"[^\w.-]", "_", worker, flags=re.ASCII)
        self.path = folder / f"done-{name}.jsonl"
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._synced_at = 0.0

    def append(self, row: UnitRow) -> None:
        """Appends a row.

        Raises:
            DiskFullError: There is no room.
            InputError: The file cannot be written.
        """
        line = json.dumps(row.to_json(), separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                if self._write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if time.monotonic() - self._synced_at > SYNC_INTERVAL_S:
                    os.fsync(self._open())
                    self._synced_at = time.monotonic()
        except OSError as error:
            kind = DiskFullError if error.errno in DISK_FULL_ERRNOS else InputError
            raise kind(f"The job's file {escape_name(self.path)} could not be written ({error.strerror}).") from error

    def _open(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self.path, flags, 0o666)
        return self._descriptor

    def _write(self, line: bytes) -> int:
        return os.write(self._open(), line)

    def close(self) -> None:
        """Flushes the rows to the disk."""
        with self._lock:
            if self._descriptor is not None:
                with suppress(OSError):
                    os.fsync(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = None


def append_row(folder: Path, row: UnitRow) -> None:
    """Appends one row to its worker's file and flushes it to the disk; errors are those of `RowWriter.append`."""
    writer = RowWriter(folder, row.worker)
    try:
        writer.append(row)
    finally:
        writer.close()


def read_rows(folder: Path) -> Iterator[UnitRow]:
    """Reads the rows of all workers, file by file. A line that is torn, or no row, is left out."""
    for path in sorted(entry for entry in folder.iterdir() if ROWS_NAME.fullmatch(entry.name) and entry.is_file()):
        with open(path, "rb") as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError, AttributeError):
                    yield UnitRow.from_json(json.loads(line))

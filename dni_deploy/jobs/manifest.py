"""The rows of a job on disk: a file for each worker, to which it alone appends a line for each unit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dni_deploy.jobs.unit import UnitRow

ROWS_NAME = re.compile(r"done-[^/\\]+\.jsonl")
"""The files of rows in a job's folder."""


def append_row(folder: Path, row: UnitRow) -> None:
    """Appends a row to its worker's file and flushes it to the disk.

    Raises:
        OSError: The file cannot be written.
    """
    name = re.sub(r"[^\w.-]", "_", row.worker, flags=re.ASCII)
    with open(folder / f"done-{name}.jsonl", "ab") as file:
        file.write(json.dumps(row.to_json(), separators=(",", ":")).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(folder: Path) -> Iterator[UnitRow]:
    """Reads the rows of all workers, file by file. A line that is torn, or no row, is left out."""
    for path in sorted(entry for entry in folder.iterdir() if ROWS_NAME.fullmatch(entry.name) and entry.is_file()):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                yield UnitRow.from_json(json.loads(line))

"""`-` as a video or an image: stdin is read to its end into a temporary file, and a file goes to stdout."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dni_deploy.errors import LimitError, UsageError
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS

STANDARD_STREAM = Path("-")


@contextmanager
def resolve_standard_streams(
    sources: tuple[Path, ...], output: Path, noun: str, stdout_suffix: str
) -> Iterator[tuple[tuple[Path, ...], Path]]:
    """Puts temporary files in the place of `-`.

    A file is read several times, for its properties, its pixels and what else is in it, which a pipe does not allow.

    Args:
        sources: The files to read.
        output: The output.
        noun: What they are, for messages: "a video".
        stdout_suffix: Suffix of the file that goes to stdout, which names its format.

    Yields:
        Both, without `-`. After the block, the output is copied to stdout.

    Raises:
        UsageError: A stream is a terminal or closed.
        LimitError: There is no room for the temporary file.
    """
    if STANDARD_STREAM not in (*sources, output):
        yield sources, output
        return
    with tempfile.TemporaryDirectory(prefix="dni-stream-") as folder:
        if STANDARD_STREAM in sources:
            spooled = Path(folder, "stdin")
            _spool_stdin(spooled, noun)
            sources = tuple(spooled if path == STANDARD_STREAM else path for path in sources)
        if output != STANDARD_STREAM:
            yield sources, output
            return
        if sys.stdout is None or sys.stdout.isatty():
            raise UsageError(f"stdout is a terminal, and {noun} belongs in a pipe or a file.")
        written = Path(folder, f"stdout{stdout_suffix}")
        yield sources, written
        with open(written, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _spool_stdin(path: Path, noun: str) -> None:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"stdin is a terminal, and {noun} comes from a pipe or a file.")
    try:
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        raise LimitError(
            f"There is no room in {os.fspath(path.parent)} for {noun} from stdin; set TMPDIR to a folder with more."
        ) from error

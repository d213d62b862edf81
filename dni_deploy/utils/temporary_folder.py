"""A temporary folder whose errors are explained."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dni_deploy.errors import InputError, LimitError, escape_name
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS


@contextmanager
def make_temporary_folder() -> Iterator[Path]:
    """Makes a folder for the block, and removes it and what is in it at its end, as far as the system lets it.

    Yields:
        The folder, in the system's folder for temporary files.

    Raises:
        LimitError: There is no room in it.
        InputError: It cannot be made, or what is in it cannot be written or read.
    """
    place = tempfile.gettempdir()
    try:
        with tempfile.TemporaryDirectory(prefix="dni-deploy-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except OSError as error:
        if error.filename is not None and not os.fspath(error.filename).startswith(place):
            raise  # of another file
        what = f"the folder for temporary files, {escape_name(place)} ({error.strerror})"
        if error.errno in DISK_FULL_ERRNOS:
            raise LimitError(f"There is no room in {what}; free some space, or set TMPDIR to another folder.") from error
        raise InputError(f"Nothing can be written to {what}; set TMPDIR to another folder.") from error

"""Files that are programs (plans, compiled kernels): written for their owner alone, and read where nobody else could have written.

As ssh does with its keys.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dni_deploy.errors import RefusedError, escape_name
from dni_deploy.utils.atomic_write import write_file_atomically


def open_for_reading(path: Path) -> int:
    """Opens a file for reading, never a link and never waiting on a pipe; returns the file descriptor."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    return os.open(path, flags)


@contextmanager
def open_private_file(path: Path, kind: str, hint: str = "", *, owners: Collection[int] = ()) -> Iterator[IO[bytes]]:
    """Opens a file that nobody but its reader, root, or an account that the reader trusts can have written.

    Args:
        path: The file.
        kind: What it is, for messages, such as "a plan".
        hint: How to get one of one's own, a clause for messages, such as "build your own with dni-deploy build".
        owners: Numbers of accounts that are trusted.

    Yields:
        The open file.

    Raises:
        RefusedError: Somebody else may have written it.
        OSError: It cannot be read.
    """
    try:
        descriptor = open_for_reading(path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise RefusedError(f"{escape_name(path)} is a link or no plain file, and {kind} is a program: refused.") from None
        raise
    try:
        _check_ownership(path, os.fstat(descriptor), kind, hint, owners)
    except RefusedError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield file


def write_private_file(path: Path, parts: Iterable[bytes], *, force: bool = False) -> None:
    """Writes a file atomically, readable and writable by its owner alone.

    Args:
        path: The file.
        parts: Its content.
        force: Whether a file that exists is replaced.

    Raises:
        As `write_file_atomically`.
    """
    with write_file_atomically(path, force=force, keep_mode=False) as temporary:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.writelines(parts)
        except OSError as error:  # write and close do not name the file themselves
            raise OSError(error.errno, error.strerror, os.fspath(temporary)) from error


def _check_ownership(path: Path, status: os.stat_result, kind: str, hint: str, owners: Collection[int]) -> None:
    """Refuses a file that another user may have written, by the status of the open file: it cannot be exchanged in between."""
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{escape_name(path)} is not a plain file, and {kind} is a program: refused.")
    if not hasattr(os, "geteuid"):  # Windows has other means, and a profile folder per user
        return
    if status.st_uid not in (os.geteuid(), 0, *owners):
        raise RefusedError(
            f"{escape_name(path)} belongs to user {status.st_uid}, and {kind} is a program: refused{f'; {hint}' if hint else ''}."
        )
    if status.st_mode & 0o022:
        raise RefusedError(
            f"{escape_name(path)} can be written by others (mode {stat.S_IMODE(status.st_mode):04o}), and {kind} is a program: "
            "refused; build it again, or, if you trust it, chmod 600."
        )

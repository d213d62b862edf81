"""Publish: a file or folder that appears whole or not at all.

What is being written lives beside its target under a temporary name, is flushed to the disk, and then takes the target's
name in one step; the folder is flushed last. A crash, a full disk or a kill leaves the old one or the new one.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from dni_deploy.errors import DniError, InputError, LimitError, UsageError, escape_name

DISK_FULL_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}
)
"""What the system says when there is no room: disk, quota, file size."""

NO_HARD_LINK_ERRNOS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV})

NO_FOLDER_SYNC_ERRNOS = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})

STALE_AGE_S = 86400
"""After a day a temporary name of another machine, or of a recycled process number, is nobody's."""


@contextmanager
def write_file_atomically(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to; leaving the block puts that file at `path`.

    The temporary name keeps the suffix of `path` and lies in its folder. An exception in the block, Ctrl-C included,
    removes it and leaves `path` as it was. A symbolic link at `path` is replaced, not followed.
    Raises UsageError (the target exists and `force` is off, is not a file, has no folder), LimitError (no room),
    InputError (not allowed, read-only, a failing disk); each says what is on disk now.
    """
    target = _resolve_target(path)
    existed = _check_replaceable(target, force)
    if existed and not stat.S_ISREG(os.lstat(target).st_mode) and not os.path.islink(target):
        raise UsageError(f"{escape_name(target)} is not a file, so it cannot be replaced by one. Nothing was written.")
    _remove_stale(target)
    temporary = _make_temporary_path(target)
    try:
        yield temporary
        with _raise_readable(target, existed):
            _sync_file(temporary)
            _move_into_place(temporary, target, force)
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS or str(error.filename) == os.fspath(temporary):
            raise _write_error(error, target, existed) from error
        raise
    finally:
        with suppress(OSError):
            os.unlink(temporary)
    with _raise_readable(target, None):
        sync_folder(target.parent)


@contextmanager
def write_folder_atomically(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Give a new temporary folder to fill; leaving the block gives it the name `path`.

    Only a new folder can be published: with `force` an empty one at `path` is taken over, one with files in it never is.
    Raises as write_file_atomically does.
    """
    target = _resolve_target(path)
    existed = _check_replaceable(target, force)
    if existed and (os.path.islink(target) or not target.is_dir() or any(os.scandir(target))):
        raise UsageError(
            f"{escape_name(target)} exists and is not an empty folder; remove it or name another. Nothing was written."
        )
    _remove_stale(target)
    temporary = _make_temporary_path(target)
    try:
        with _raise_readable(target, existed):
            os.mkdir(temporary)
        yield temporary
        with _raise_readable(target, existed):
            for folder, _, names in os.walk(temporary, topdown=False):
                for name in names:
                    _sync_file(Path(folder, name))
                sync_folder(Path(folder))
            if os.name == "nt" and existed:
                os.rmdir(target)
            # Never replaces anything but an empty folder: rename fails on a file and on a folder with files.
            os.rename(temporary, target)
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS or str(error.filename or "").startswith(os.fspath(temporary)):
            raise _write_error(error, target, existed) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    with _raise_readable(target, None):
        sync_folder(target.parent)


def write_bytes_atomically(path: str | os.PathLike[str], data: bytes, *, force: bool = False) -> None:
    """Publish a file with this content."""
    with write_file_atomically(path, force=force) as temporary:
        write_bytes(temporary, data)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file to the end, however the system cuts the writes; for temporary paths. Raises OSError naming it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            rest = memoryview(data)
            while rest:
                written = os.write(descriptor, rest[: 1 << 30])
                if written <= 0:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                rest = rest[written:]
        finally:
            os.close(descriptor)
    except OSError as error:  # write and close do not name the file themselves
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _resolve_target(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.name in ("", ".."):
        raise UsageError(f"{escape_name(path)!r} is not the name of something to write. Nothing was written.")
    if not target.parent.is_dir():
        raise UsageError(
            f"The folder {escape_name(target.parent)} does not exist, so {escape_name(target.name)} cannot be written there."
        )
    return target


def _check_replaceable(target: Path, force: bool) -> bool:
    existed = os.path.lexists(target)
    if existed and target.is_dir() and not target.is_symlink() and not force:
        raise UsageError(f"{escape_name(target)} is a folder that exists; name another. Nothing was written.")
    if existed and not force:
        raise UsageError(f"{escape_name(target)} exists; give --force to replace it. Nothing was written.")
    return existed


def _compute_host_id() -> str:
    """Tells machines and containers apart: a process number means something on its own machine only."""
    return sha256(platform.node().encode("utf-8", "replace")).hexdigest()[:6]


def _make_temporary_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}-{_compute_host_id()}-{secrets.token_hex(4)}.part{target.suffix}")


def _remove_stale(target: Path) -> None:
    """Remove what a killed process left of this same target."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"(\d+)-([0-9a-f]{6})-[0-9a-f]{8}\.part" + re.escape(target.suffix))
    with suppress(OSError):
        for name in os.listdir(target.parent):
            match = pattern.fullmatch(name)
            if match is None:
                continue
            left = target.with_name(name)
            with suppress(OSError):
                old = time.time() - os.lstat(left).st_mtime > STALE_AGE_S
                if old or (match[2] == _compute_host_id() and not _is_process_alive(int(match[1]))):
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() and not left.is_symlink() else os.unlink(left)


def _is_process_alive(process_id: int) -> bool:
    if os.name == "nt":  # there, signal 0 ends the process instead of asking for it
        return True
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _sync_file(path: Path) -> None:
    # Opened again, because a library may have written it; Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush the folder's list of names, on systems and file systems that can."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC_ERRNOS:
            raise
    finally:
        os.close(descriptor)


def _move_into_place(temporary: Path, target: Path, force: bool) -> None:
    """Give the file its name; without force never over a file that appeared since the check."""
    if force:
        os.replace(temporary, target)
        return
    try:
        if os.name == "nt":
            os.rename(temporary, target)
            return
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in NO_HARD_LINK_ERRNOS:
                raise
            _move_without_links(temporary, target)
    except FileExistsError:
        raise UsageError(
            f"{escape_name(target)} was made by somebody else meanwhile and is left as it is. Nothing was written."
        ) from None


def _move_without_links(temporary: Path, target: Path) -> None:
    """Hold the name with an empty file first; for file systems such as FAT."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        os.replace(temporary, target)
    except BaseException:
        os.unlink(target)
        raise


@contextmanager
def _raise_readable(target: Path, existed: bool | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _write_error(error, target, existed) from error


def _write_error(error: OSError, target: Path, existed: bool | None) -> DniError:
    """One sentence for the system's error; existed None: the new one is in place already, only the flush failed."""
    state = {
        True: "The old one is untouched.",
        False: "Nothing was written.",
        None: "The new one is in place, but may be lost if the machine stops now.",
    }[existed]
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in DISK_FULL_ERRNOS:
        return LimitError(f"There is no room to write {escape_name(target)} ({reason}); free some space and try again. {state}")
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(f"The name {escape_name(target.name)} is too long for this disk; choose a shorter one. {state}")
    return InputError(f"{escape_name(target)} could not be written ({reason}). {state}")


def check_outputs(paths: Sequence[str | os.PathLike[str] | None], force: bool) -> tuple[str, ...]:
    """The paths that are not None. force: what exists may be replaced.

    Raises UsageError: two are one file, a folder that does not exist, or a file that does.
    """
    outputs = [os.fspath(path) for path in paths if path is not None]
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise UsageError(f"Two outputs have one name: {', '.join(escape_name(path) for path in outputs)}. Nothing was written.")
    for path in outputs:
        if not Path(path).absolute().parent.is_dir():
            raise UsageError(f"The folder of {escape_name(path)} does not exist. Nothing was written.")
        if os.path.lexists(path) and not force:
            raise UsageError(f"{escape_name(path)} exists; give --force to replace it. Nothing was written.")
    return tuple(outputs)

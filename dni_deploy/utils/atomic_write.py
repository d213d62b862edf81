"""Atomic writes: a file or folder appears whole or not at all.

What is being written has a temporary name beside its target, is flushed to the disk, and is then renamed to the target in one
step; the folder is flushed last. A crash, a full disk or a kill leaves the old one or the new one.
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
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from dni_deploy.errors import DniError, InputError, LimitError, UsageError, escape_name

DISK_FULL_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}
)
"""Errors of the system when there is no room: disk, quota, file size."""

NO_HARD_LINK_ERRNOS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV})

NO_FOLDER_SYNC_ERRNOS = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})

MAX_SHOWN_NAME_BYTES = 200
"""Of the target's name and suffix in its temporary name."""

MAX_SUFFIX_BYTES = 32

STALE_AGE_S = 86400
"""Age at which a temporary file of another machine, or of a process number that is in use again, is removed."""

LISTING_PAUSE_FACTOR = 50
"""A folder is listed again after this many times the seconds that listing it took, so that this takes 2 % of the time at most."""

MAX_LISTINGS = 256


class DiskFullError(LimitError):
    """There is no room on the disk."""

    kind = "DiskFullError"


@contextmanager
def write_file_atomically(
    path: str | os.PathLike[str], *, force: bool = False, mode_of: Path | None = None, keep_mode: bool = True
) -> Iterator[Path]:
    """Gives the block a temporary path; when the block ends, the file that it wrote there is renamed to `path`.

    The temporary name has the suffix of `path` and lies in its folder. An exception in the block, Ctrl-C included, removes the
    file and leaves `path` as it was. A symbolic link at `path` is replaced, not followed.

    Args:
        path: The file.
        force: Whether a file that exists is replaced. The new one has its mode, and its group where that is allowed.
        mode_of: The file whose mode and group a new file has, if it exists; None: the one that is replaced.
        keep_mode: Whether to do so; else the new file stays as the block made it.

    Yields:
        The temporary path, at which nothing exists yet.

    Raises:
        UsageError: The target exists and `force` is off, is not a file, or has no folder.
        DiskFullError: There is no room.
        InputError: It cannot be written, or the disk fails; each message says what is on disk now.
    """
    target = _resolve_target(path)
    existed = _check_replaceable(target, force)
    if existed and not stat.S_ISREG(os.lstat(target).st_mode) and not os.path.islink(target):
        raise UsageError(f"{escape_name(target)} is not a file, so it cannot be replaced by one. Nothing was written.")
    with _use_temporary_path(target, existed) as temporary:
        yield temporary
        with _raise_readable(target, existed):
            if keep_mode:
                _keep_mode(temporary, mode_of or target)
            _sync_file(temporary)
            _move_into_place(temporary, target, force)


@contextmanager
def write_folder_atomically(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Gives the block a new temporary folder; when the block ends, the folder is renamed to `path`.

    Args:
        path: The folder.
        force: Whether an empty folder that exists is replaced; one with files in it never is.

    Yields:
        The temporary folder.

    Raises:
        UsageError: As `write_file_atomically`, as are DiskFullError and InputError.
    """
    target = _resolve_target(path)
    existed = _check_replaceable(target, force)
    if existed and (os.path.islink(target) or not target.is_dir() or any(os.scandir(target))):
        raise UsageError(
            f"{escape_name(target)} exists and is not an empty folder; remove it or name another. Nothing was written."
        )
    with _use_temporary_path(target, existed) as temporary:
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
            _keep_mode(temporary, target)
            # Never replaces anything but an empty folder: rename fails on a file and on a folder with files.
            try:
                os.rename(temporary, target)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise _overtaken_error(target) from None
                raise


@contextmanager
def _use_temporary_path(target: Path, existed: bool) -> Iterator[Path]:
    """Removes what remains at the temporary path at the end, and flushes the folder of the target after a success."""
    remove_stale_files(target)
    temporary = _make_temporary_path(target)
    try:
        yield temporary
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS or str(error.filename or "").startswith(os.fspath(temporary)):
            raise _write_error(error, target, existed) from error
        raise
    finally:
        _remove_path(temporary)
    with _raise_readable(target, None):
        sync_folder(target.parent)


def _remove_path(path: Path) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)


def write_bytes_atomically(
    path: str | os.PathLike[str], data: bytes, *, force: bool = False, mode_of: Path | None = None
) -> None:
    """Writes a file with this content; arguments and errors are those of `write_file_atomically`."""
    with write_file_atomically(path, force=force, mode_of=mode_of) as temporary:
        write_bytes(temporary, data)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a new file at a temporary path, in as many writes as the system needs; raises OSError with its name."""
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


@contextmanager
def make_folder(path: Path) -> Iterator[None]:
    """Makes a folder, unless it exists, for what the block writes there; where that fails, it is removed again."""
    existed = path.exists()
    path.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if not existed:
            with suppress(OSError):
                path.rmdir()
        raise


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


def _keep_mode(temporary: Path, old: Path) -> None:
    """Gives a new file or folder the mode and the group of an old one."""
    if os.name == "nt":
        return
    try:
        status, made = os.lstat(old), os.lstat(temporary)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        return
    if status.st_gid != made.st_gid:
        with suppress(OSError):
            os.chown(temporary, -1, status.st_gid)
    os.chmod(temporary, stat.S_IMODE(status.st_mode) & 0o777)


@cache
def _compute_host_id() -> str:
    """Identifies the machine since it began, and the container: a process number means something there only."""
    digest = sha256(platform.node().encode("utf-8", "replace"))
    with suppress(OSError):
        digest.update(Path("/proc/sys/kernel/random/boot_id").read_bytes())
        digest.update(str(os.stat("/proc/self/ns/pid").st_ino).encode())
    return digest.hexdigest()[:6]


def _make_temporary_path(target: Path) -> Path:
    start, end = _frame_temporary_name(target)
    return target.with_name(f"{start}{os.getpid()}-{_compute_host_id()}-{secrets.token_hex(4)}{end}")


def _frame_temporary_name(target: Path) -> tuple[str, str]:
    """What a temporary name begins and ends with; of a long name a digest, since no name may have more than 255 bytes."""
    name, suffix = os.fsencode(target.name), os.fsencode(target.suffix)
    shown = target.name if len(name) + len(suffix) <= MAX_SHOWN_NAME_BYTES else sha256(name).hexdigest()
    return f".{shown}.", f".part{target.suffix if len(suffix) <= MAX_SUFFIX_BYTES else ''}"


def remove_stale_files(target: Path) -> None:
    """Removes what a killed process left of this same target."""
    start, end = _frame_temporary_name(target)
    pattern = re.compile(re.escape(start) + r"(\d+)-([0-9a-f]{6})-[0-9a-f]{8}" + re.escape(end))
    with suppress(OSError):
        for name in _list_temporary_names(target.parent):
            match = pattern.fullmatch(name)
            if match is None:
                continue
            path = target.with_name(name)
            with suppress(OSError):
                is_old = time.time() - os.lstat(path).st_mtime > STALE_AGE_S
                if is_old or (match[2] == _compute_host_id() and not _is_process_alive(int(match[1]))):
                    _remove_path(path)


class _Listing(NamedTuple):
    temporary_names: list[str]
    valid_until: float


_listing_by_folder: dict[str, _Listing] = {}


def _list_temporary_names(folder: Path) -> list[str]:
    """Lists the temporary names in a folder, some of them maybe gone by now; a large folder is not listed for every file."""
    key = os.path.abspath(folder)
    started = time.monotonic()
    listing = _listing_by_folder.get(key)
    if listing is None or started >= listing.valid_until:
        names = [name for name in os.listdir(folder) if name[:1] == "." and ".part" in name]
        finished = time.monotonic()
        if len(_listing_by_folder) >= MAX_LISTINGS:
            _listing_by_folder.clear()
        listing = _Listing(names, finished + LISTING_PAUSE_FACTOR * (finished - started))
        _listing_by_folder[key] = listing
    return listing.temporary_names


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
    """Flushes a folder's list of names, on systems and file systems that can."""
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
    """Renames the file to its target; without force never over a file that appeared since the check."""
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
        raise _overtaken_error(target) from None


def _overtaken_error(target: Path) -> UsageError:
    return UsageError(
        f"{escape_name(target)} was created by another process meanwhile and is left as it is. Nothing was written."
    )


def _move_without_links(temporary: Path, target: Path) -> None:
    """Reserves the name with an empty file first; for file systems such as FAT."""
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
    """Explains an error of the system; `existed` is None where the new one is in place already and only the flush failed."""
    state = {
        True: "The old one is untouched.",
        False: "Nothing was written.",
        None: "The new one is in place, but may be lost if the machine stops now.",
    }[existed]
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in DISK_FULL_ERRNOS:
        return DiskFullError(
            f"There is no room to write {escape_name(target)} ({reason}); free some space and try again. {state}"
        )
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(f"The name {escape_name(target.name)} is too long for this disk; choose a shorter one. {state}")
    return InputError(f"{escape_name(target)} could not be written ({reason}). {state}")


def check_outputs(paths: Sequence[str | os.PathLike[str] | None], force: bool) -> tuple[str, ...]:
    """Checks the outputs of a command before its work begins.

    Args:
        paths: Paths of the outputs; None where one was not requested.
        force: Whether files that exist may be replaced.

    Returns:
        The paths that are not None.

    Raises:
        UsageError: Two are one file, a folder does not exist, or a file does and `force` is off.
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

"""Copies of objects on the local disk, for what reads files: fetched ahead, checked for room, named by their address in errors."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

from dni_deploy.errors import DniError, InputError, LimitError, UsageError, escape_name
from dni_deploy.storage.cache import make_cache_folder
from dni_deploy.storage.object_store import check_writable, download_object, read_info, read_object, write_object
from dni_deploy.utils.address import as_location, is_address, name_of
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS
from dni_deploy.utils.file_lock import try_lock
from dni_deploy.utils.temporary_folder import make_temporary_folder

Item = TypeVar("Item")

CACHE_NAME = "staged"
LOCK_NAME = ".lock"
LOCK_PAUSE_S = 0.05
DIGEST_LETTERS = 16
"""Of the name of an address's folder in the cache."""

OBJECTS_AHEAD = 8
"""Objects that are fetched at once, and lie on the disk before their turn comes."""

SPARE_BYTES = 64 << 20
"""What a copy leaves free on its disk."""


class StagedFile(NamedTuple):
    """A file to read, for what may have been at an address.

    Attributes:
        source: The path or the address.
        path: Where it can be read.
        error: Why it could not be fetched; None where it was.
    """

    source: str
    path: Path
    error: DniError | None = None

    @contextmanager
    def reading(self) -> Iterator[Path]:
        """Gives the block the file, whose errors then name the address, and removes a copy at the end.

        Raises:
            DniError: As the copy was fetched with, or as the block raises.
        """
        if self.error is not None:
            raise self.error
        if not is_address(self.source):
            yield self.path
            return
        try:
            with name_errors(self.path, self.source):
                yield self.path
        finally:
            with suppress(OSError):
                self.path.unlink()


@contextmanager
def name_errors(path: Path, address: str) -> Iterator[None]:
    """Lets errors of the block name the address in place of its copy."""
    try:
        yield
    except DniError as error:
        copy_name, name = escape_name(path), escape_name(address)
        if copy_name not in str(error):
            raise
        renamed = type(error)(str(error).replace(copy_name, name))
        renamed.report = error.report
        raise renamed from error


@contextmanager
def stage_ahead(
    items: Iterable[Item], source_of: Callable[[Item], str]
) -> Iterator[Generator[tuple[Item, StagedFile], None, None]]:
    """Opens an iterator over items with the file to read for each; those at addresses are fetched ahead, several at once.

    Args:
        items: In their order.
        source_of: Says where the item's file is: a path or an address.

    Yields:
        The iterator. Its files are there until they were read, or until the block ends.
    """
    with ExitStack() as folders, ThreadPoolExecutor(OBJECTS_AHEAD, thread_name_prefix="stage") as executor:
        try:
            yield _iterate_ahead(items, source_of, executor, folders)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _iterate_ahead(
    items: Iterable[Item], source_of: Callable[[Item], str], executor: ThreadPoolExecutor, folders: ExitStack
) -> Generator[tuple[Item, StagedFile], None, None]:
    pending: deque[tuple[Item, Future[StagedFile] | None]] = deque()  # None: nothing is to be fetched
    folder: Path | None = None

    def finish_first() -> tuple[Item, StagedFile]:
        item, future = pending.popleft()
        return item, StagedFile(source_of(item), Path(source_of(item))) if future is None else future.result()

    for number, item in enumerate(items):
        future = None
        source = source_of(item)
        if is_address(source):
            folder = folder or folders.enter_context(make_temporary_folder())
            future = executor.submit(_stage, source, folder / str(number))
        pending.append((item, future))
        while pending and (len(pending) >= OBJECTS_AHEAD or pending[0][1] is None or pending[0][1].done()):
            yield finish_first()
    while pending:
        yield finish_first()


def fetch_file(address: str, target: Path) -> None:
    """Copies an object to a path of this machine, where it appears when it is whole, with the time at which it was written.

    Raises:
        LimitError: There is no room.
        InputError: It does not exist, or cannot be read.
        UnavailableError: The store cannot be used.
    """
    info = read_info(address)
    if info is None or info.is_folder:
        raise InputError(f"{escape_name(address)} {'does not exist' if info is None else 'is a folder; name a file'}.")
    folder = target.parent
    free = shutil.disk_usage(folder).free
    if info.size + SPARE_BYTES > free:
        raise LimitError(
            f"{escape_name(address)} has {info.size >> 20} MB, and {escape_name(folder)} has {free >> 20} MB free; free some "
            "space, or set DNI_CACHE and TMPDIR to folders of a larger disk."
        )
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=folder)
    os.close(descriptor)
    try:
        download_object(address, Path(name), info.size)
        os.utime(name, (int(info.changed), int(info.changed)))  # whole seconds, which every file system keeps
        os.replace(name, target)
    except OSError as error:
        raise _describe_write_error(error, address, folder) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def staged_path(address: str) -> Path:
    """Returns where the copy of an address lies in the cache while a long command works with it: the same for each run.

    Raises:
        UnavailableError, InputError: As `make_cache_folder`.
    """
    digest = sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:DIGEST_LETTERS]
    return make_cache_folder(CACHE_NAME, digest) / name_of(address).name


def stage_source(location: str | os.PathLike[str]) -> Path:
    """Returns a file to read: a path itself, and of an address a copy in the cache, which stays until `discard_staged`.

    A copy that an earlier run left is taken where its object is still the same. Processes share it.

    Raises:
        DniError: As `fetch_file` and `staged_path`.
    """
    source = as_location(location)
    if isinstance(source, Path):
        return source
    path = staged_path(source)
    if path not in _locks:
        _locks[path] = _hold_folder(path.parent)
    with name_errors(path, source):
        info = read_info(source)
        try:
            status = os.stat(path)
        except OSError:
            status = None
        if info is None or status is None or (status.st_size, int(status.st_mtime)) != (info.size, int(info.changed)):
            fetch_file(source, path)
    return path


_locks: dict[Path, int] = {}
"""Descriptors by which this process keeps others from removing a copy that it reads."""


def _hold_folder(folder: Path) -> int:
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            if try_lock(descriptor, shared=True) and os.path.exists(folder / LOCK_NAME):
                return descriptor
            os.close(descriptor)
        time.sleep(LOCK_PAUSE_S)


def stage_output(location: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Returns a file to write: a path itself, and for an address one in the cache, which `publish_staged` uploads.

    Raises:
        UsageError: There is an object at the address, and `force` is off; or its store does not take one whole.
        DniError: As `read_info` and `staged_path`.
    """
    target = as_location(location)
    if isinstance(target, Path):
        return target
    check_writable(target)
    if not name_of(target).suffix:
        raise UsageError(f"{escape_name(target)} names no file; write {escape_name(target)}/NAME.mkv. Nothing was written.")
    if not force and read_info(target) is not None:
        raise UsageError(f"{escape_name(target)} exists; give --force to replace it. Nothing was written.")
    return staged_path(target)


def publish_staged(location: str | os.PathLike[str], *, force: bool = False) -> None:
    """Uploads a staged output whole; does nothing for a path.

    Raises:
        DniError: As `write_object`.
    """
    target = as_location(location)
    if isinstance(target, str):
        write_object(target, staged_path(target), force=force)


def discard_staged(*locations: str | os.PathLike[str]) -> None:
    """Removes what is staged for addresses, as far as the system lets it and no other process reads it."""
    for location in locations:
        place = as_location(location)
        if isinstance(place, Path):
            continue
        path = staged_path(place)
        descriptor = _locks.pop(path, None)
        if descriptor is None or try_lock(descriptor):
            shutil.rmtree(path.parent, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def name_staged_errors(*locations: str | os.PathLike[str]) -> Iterator[None]:
    """Lets errors of the block name addresses in place of what is staged for them."""
    with ExitStack() as stack:
        for location in locations:
            if is_address(location):
                place = as_location(location)
                if isinstance(place, str):
                    stack.enter_context(name_errors(staged_path(place), place))
        yield


def _stage(source: str, copy: Path) -> StagedFile:
    path = copy.with_suffix(name_of(source).suffix)
    try:
        path.write_bytes(read_object(source))
    except DniError as error:
        return StagedFile(source, path, error)
    except OSError as error:
        return StagedFile(source, path, _describe_write_error(error, source, path.parent))
    return StagedFile(source, path)


def _describe_write_error(error: OSError, address: str, folder: Path) -> DniError:
    if error.errno in DISK_FULL_ERRNOS:
        return LimitError(f"There is no room in {escape_name(folder)} for {escape_name(address)}.")
    return InputError(f"{escape_name(address)} cannot be copied to {escape_name(folder)} ({error.strerror}).")

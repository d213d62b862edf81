"""What commands ask of files and folders, whether they are on this machine or at an address."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Union

from dni_deploy.errors import DniError
from dni_deploy.storage.object_store import ObjectInfo, list_folder, read_info, write_object
from dni_deploy.utils.address import Location, is_address
from dni_deploy.utils.atomic_write import write_bytes_atomically

MAX_LISTINGS = 16
"""Folders of a store whose listings are kept while their objects are read."""

FolderId = Union[tuple[int, int], str]
"""Device and number of a folder, the same by whatever path it is reached; or its address."""


class ObjectEntry:
    """An entry of a folder of a store, with those methods of os.DirEntry that are needed."""

    def __init__(self, info: ObjectInfo) -> None:
        """Keeps what the listing said; nothing is asked for again."""
        self.name = info.name
        self._is_folder = info.is_folder

    def is_file(self) -> bool:
        """Tells whether it is an object."""
        return not self._is_folder

    def is_dir(self) -> bool:
        """Tells whether objects lie below it."""
        return self._is_folder

    def is_symlink(self) -> bool:
        """Stores have no links."""
        return False


@contextmanager
def scan_folder(folder: str) -> Iterator[Iterator[os.DirEntry[str] | ObjectEntry]]:
    """Opens the listing of a folder, as os.scandir does. Names of a store that are none on this machine are left out.

    Raises:
        OSError: The folder of this machine cannot be read.
        DniError: The store cannot be used, or does not answer.
    """
    if is_address(folder):
        yield (ObjectEntry(info) for info in list_folder(folder) if _is_plain_name(info.name))
        return
    with os.scandir(folder) as entries:
        yield entries


def find_kind(location: Location) -> Literal["file", "folder"] | None:
    """Finds out what is at a location; a broken link counts as a file."""
    if isinstance(location, Path):
        return "folder" if location.is_dir() else "file" if os.path.lexists(location) else None
    info = read_info(location)
    return None if info is None else "folder" if info.is_folder else "file"


def can_enter_folder(folder: str) -> bool:
    """Tells whether a folder that a listing names can be listed itself, as far as that is known without listing it."""
    return is_address(folder) or os.access(folder, os.R_OK | os.X_OK)


def resolve_folder(folder: str) -> str:
    """Returns the one name of a folder: its real path, or its address."""
    return folder.rstrip("/") if is_address(folder) else os.path.realpath(folder)


def read_folder_id(folder: str | os.PathLike[str]) -> FolderId | None:
    """Reads what identifies a folder; None where there is none on this machine."""
    if isinstance(folder, str) and is_address(folder):
        return folder.rstrip("/")
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def make_folders(folder: str) -> None:
    """Makes a folder and those around it; a store needs none."""
    if not is_address(folder):
        os.makedirs(folder or ".", exist_ok=True)


def write_whole(location: str, data: bytes, *, force: bool = False) -> None:
    """Writes a file or an object, which appears when it is complete; errors are those of both writers."""
    if is_address(location):
        write_object(location, data, force=force)
    else:
        write_bytes_atomically(location, data, force=force)


class SourceStates:
    """Reads what tells that a source was changed. Of a store, each folder is listed once, and no object asked for.

    Thread safety: any thread may call any method.
    """

    def __init__(self) -> None:
        """Begins without a listing."""
        self._lock = threading.Lock()
        self._listings: dict[str, dict[str, str]] = {}

    def read(self, folder: str, name: str) -> str | None:
        """Returns size and time of change of a file; None where it cannot be read."""
        try:
            if is_address(folder):
                return self._list(folder).get(name)
            status = os.stat(os.path.join(folder, name))
        except (OSError, DniError):
            return None
        return f"{status.st_size} bytes, {status.st_mtime_ns} ns"

    def _list(self, folder: str) -> dict[str, str]:
        with self._lock:
            if folder not in self._listings:
                while len(self._listings) >= MAX_LISTINGS:
                    del self._listings[next(iter(self._listings))]
                self._listings[folder] = {
                    info.name: f"{info.size} bytes, {info.changed} s" for info in list_folder(folder) if not info.is_folder
                }
            return self._listings[folder]


def _is_plain_name(name: str) -> bool:
    """Whether a key's part names a file in a folder of this machine, and nothing outside of it."""
    return name not in (".", "..") and "\0" not in name and os.path.basename(name) == name and not os.path.splitdrive(name)[0]

"""Lists of image files: single paths, several, and folders, with or without the folders in them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Union

from dni_deploy.errors import InputError, escape_name
from dni_deploy.imaging.image_formats import FORMAT_BY_SUFFIX, READABLE_SUFFIXES
from dni_deploy.storage.files import FolderId, can_enter_folder, read_folder_id, scan_folder
from dni_deploy.utils.address import Location, as_local_path, as_location, join_location

Paths = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]
"""One, or several."""


class ScannedFolder(NamedTuple):
    """The files of one folder, by name; hidden ones do not count.

    Attributes:
        path: The folder.
        relative: Its path below the folder where the scan began; "" for that one.
        images: Names of the images, by their suffix.
        links: Names of those of them that are symbolic links.
        others: Names of the other files.
        linked_folders: Names of links to folders, which a recursive scan does not follow.
        unreadable_folders: Names of folders that a recursive scan cannot read.
    """

    path: str
    relative: str
    images: list[str]
    links: set[str]
    others: list[str]
    linked_folders: list[str]
    unreadable_folders: list[str]


def as_path_list(paths: Paths) -> list[Path]:
    """Converts one path or several to a list.

    Raises:
        UsageError: One is an address.
    """
    return [as_local_path(path, "an image here") for path in _as_list(paths)]


def as_location_list(paths: Paths) -> list[Location]:
    """Converts one path or address, or several, to a list; errors are those of `as_location`."""
    return [as_location(path) for path in _as_list(paths)]


def _as_list(paths: Paths) -> Sequence[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, (str, os.PathLike)) else paths


def list_images(paths: Paths, *, enter_folders: bool = False) -> list[Path]:
    """Lists image files: each path itself, or the images directly in it where it is a folder.

    Args:
        paths: Files and folders.
        enter_folders: Where no image lies directly in a folder, take those in the folders in it, as of a data set in parts.

    Raises:
        InputError: As `scan_images`.
    """
    files: list[Path] = []
    for path in as_path_list(paths):
        if not path.is_dir():
            files.append(path)
            continue
        try:
            scanned = scan_images(path)
        except InputError:
            if not enter_folders:
                raise
            scanned = scan_images(path, recursive=True)
        files += (Path(folder.path, name) for folder in scanned for name in folder.images)
    return files


def scan_images(
    folder: str | os.PathLike[str], *, recursive: bool = False, excluded: FolderId | None = None
) -> list[ScannedFolder]:
    """Finds the images in a folder: each folder is listed once, and no file is looked at.

    Args:
        folder: The folder.
        recursive: Enter the folders in it, too, by name; not hidden ones, and not symbolic links, so that no loop is one.
        excluded: A folder that is not entered, and not mentioned.

    Returns:
        The folder, and those below it.

    Raises:
        InputError: The folder cannot be read, or no image is there.
        DniError: As `scan_folder` raises.
    """
    try:
        scanned = list(_walk_folders(os.fspath(folder), recursive, excluded))
    except OSError as error:
        raise InputError(f"The folder {escape_name(folder)} cannot be read ({error.strerror}).") from error
    if not any(each.images for each in scanned):
        where = "neither do the folders in it" if recursive else "the folders in it are not entered (run -r enters them)"
        raise InputError(f"The folder {escape_name(folder)} holds no image ({', '.join(FORMAT_BY_SUFFIX)}); {where}.")
    return scanned


def _walk_folders(path: str, recursive: bool, excluded: FolderId | None) -> Iterator[ScannedFolder]:
    pending = [(path, "")]
    while pending:
        path, relative = pending.pop()
        scanned, folders = _scan_folder(path, relative)
        for name in reversed(folders) if recursive else ():
            inner = join_location(path, name)
            if not can_enter_folder(inner):
                scanned.unreadable_folders.append(name)
            elif excluded is None or read_folder_id(inner) != excluded:
                pending.append((inner, os.path.join(relative, name)))
        yield scanned if recursive else scanned._replace(linked_folders=[])


def _scan_folder(path: str, relative: str) -> tuple[ScannedFolder, list[str]]:
    """Lists one folder; returns it with the names of the folders in it."""
    scanned = ScannedFolder(path, relative, [], set(), [], [], [])
    folders: list[str] = []
    with scan_folder(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if not entry.is_file():  # known from the listing itself; only a link is looked up
                if entry.is_dir():
                    (scanned.linked_folders if entry.is_symlink() else folders).append(name)
            elif not has_image_suffix(name):
                scanned.others.append(name)
            else:
                scanned.images.append(name)
                if entry.is_symlink():
                    scanned.links.add(name)
    for names in (scanned.images, scanned.others, scanned.linked_folders, folders):
        names.sort()
    return scanned, folders


def has_image_suffix(name: str) -> bool:
    """Tells whether a file is read as an image where a folder is processed."""
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in READABLE_SUFFIXES

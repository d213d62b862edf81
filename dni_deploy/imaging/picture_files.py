"""Picture files: which files are meant where a user names pictures, or folders of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from dni_deploy.errors import InputError, escape_name
from dni_deploy.imaging.image_file import FORMAT_BY_SUFFIX

Paths = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]
"""One, or several."""


def as_path_list(paths: Paths) -> list[Path]:
    """One path or several, as a list."""
    return [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]


def list_images(paths: Paths) -> list[Path]:
    """The files as given, and of a folder what list_folder_images finds. Raises InputError."""
    return [picture for path in as_path_list(paths) for picture in (list_folder_images(path)[0] if path.is_dir() else [path])]


def list_folder_images(folder: Path) -> tuple[list[Path], int]:
    """The pictures directly in a folder, by name, and how many of its files are none by their suffix; hidden files do not count.

    Raises InputError: the folder cannot be read, or holds no picture.
    """
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"The folder {escape_name(folder)} cannot be read ({error.strerror}).") from error
    pictures = [file for file in files if file.suffix.lower() in FORMAT_BY_SUFFIX]
    if not pictures:
        raise InputError(
            f"The folder {escape_name(folder)} holds no picture in it ({', '.join(FORMAT_BY_SUFFIX)}); its own folders are not entered."
        )
    return pictures, len(files) - len(pictures)

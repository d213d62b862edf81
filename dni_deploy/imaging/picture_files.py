"""Picture files: which files are meant where a user names pictures, or folders of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from dni_deploy.errors import InputError, shown
from dni_deploy.imaging.image_file import FORMATS

Paths = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]
"""One, or several."""


def listed(paths: Paths) -> list[Path]:
    """One path or several, as a list."""
    return [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]


def pictures_of(paths: Paths) -> list[Path]:
    """The files as given, and of a folder what pictures_in finds. Raises InputError."""
    return [picture for path in listed(paths) for picture in (pictures_in(path)[0] if path.is_dir() else [path])]


def pictures_in(folder: Path) -> tuple[list[Path], int]:
    """The pictures directly in a folder, by name, and how many of its files are none by their suffix; hidden files do not count.

    Raises InputError: the folder cannot be read, or holds no picture.
    """
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"The folder {shown(folder)} cannot be read ({error.strerror}).") from error
    pictures = [file for file in files if file.suffix.lower() in FORMATS]
    if not pictures:
        raise InputError(
            f"The folder {shown(folder)} holds no picture in it ({', '.join(FORMATS)}); its own folders are not entered."
        )
    return pictures, len(files) - len(pictures)

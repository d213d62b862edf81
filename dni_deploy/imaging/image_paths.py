"""Lists of image files: single paths, several, and folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from dni_deploy.errors import InputError, escape_name
from dni_deploy.imaging.image_formats import FORMAT_BY_SUFFIX, READABLE_SUFFIXES

Paths = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]
"""One, or several."""


def as_path_list(paths: Paths) -> list[Path]:
    """Converts one path or several to a list."""
    return [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]


def list_images(paths: Paths) -> list[Path]:
    """Lists image files: each path itself, or the images in it where it is a folder.

    Raises:
        InputError: As `list_folder_images`.
    """
    return [file for path in as_path_list(paths) for file in (list_folder_images(path)[0] if path.is_dir() else [path])]


def list_folder_images(folder: Path) -> tuple[list[Path], int]:
    """Lists the images directly in a folder, by name; hidden files do not count.

    Returns:
        The images, and how many of the folder's files are none by their suffix.

    Raises:
        InputError: The folder cannot be read, or holds no image.
    """
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"The folder {escape_name(folder)} cannot be read ({error.strerror}).") from error
    images = [file for file in files if file.suffix.lower() in READABLE_SUFFIXES]
    if not images:
        raise InputError(
            f"The folder {escape_name(folder)} holds no image ({', '.join(FORMAT_BY_SUFFIX)}); its own folders are not entered."
        )
    return images, len(files) - len(images)

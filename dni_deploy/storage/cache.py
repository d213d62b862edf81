"""Folders for copies of objects in the cache of this machine."""

from __future__ import annotations

from pathlib import Path

from dni_deploy.errors import InputError, UnavailableError, escape_name
from dni_deploy.utils.hardware import cache_folder


def make_cache_folder(*names: str) -> Path:
    """Makes a folder in the cache, for this account alone.

    Args:
        *names: Its name, and those of folders in it.

    Raises:
        UnavailableError: There is no cache folder.
        InputError: It cannot be made.
    """
    cache = cache_folder()
    if cache is None:
        raise UnavailableError(
            "What is at an address is copied into the cache, and there is no home folder for one: set DNI_CACHE."
        )
    folder = cache.joinpath(*names)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{escape_name(folder)} cannot be made ({error.strerror}); set DNI_CACHE to another folder."
        ) from error
    return folder

"""The one place where an address (s3://bucket/key) is distinguished from a path of this machine, and the two are taken apart alike."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Union

from dni_deploy.errors import UsageError, escape_name

Location = Union[Path, str]
"""A path of this machine, or the text of an address; what `as_location` returns."""

WEB_SCHEMES = frozenset({"http", "https", "ftp", "hf"})

_ADDRESS_PATTERN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_LOST_SLASH_PATTERN = re.compile(r"(?:file|gcs|gs|https?|memory|s3a?):[/\\][^/\\]")


def is_address(location: object) -> bool:
    """Tells whether something is the text of an address; a drive of Windows is none."""
    return isinstance(location, str) and _ADDRESS_PATTERN.match(location) is not None


def read_scheme(address: str) -> str:
    """Returns what stands before "://", in lower case; "" for no address."""
    match = _ADDRESS_PATTERN.match(address)
    return "" if match is None else match[1].lower()


def as_location(given: str | os.PathLike[str]) -> Location:
    """Tells an address from a path.

    Args:
        given: Either of them. file:///FOLDER/FILE is a path of this machine.

    Returns:
        A Path, or the text of an address without the slashes at its end.

    Raises:
        UsageError: It is an address on the web, or a Path that was made of an address and has lost a slash.
    """
    text = os.fspath(given)
    if not is_address(text):
        if not isinstance(given, str) and _LOST_SLASH_PATTERN.match(text) and not os.path.lexists(text):
            raise UsageError(
                f"{escape_name(text)} was an address before it became a Path, which drops a slash; give it as text."
            )
        return Path(text)
    scheme = read_scheme(text)
    if scheme in ("file", "local"):
        return _parse_file_address(text)
    if scheme in WEB_SCHEMES:
        raise UsageError(f"{escape_name(text)} is on the web, and nothing is downloaded from there: download it first.")
    if not text[len(scheme) + 3 :].strip("/"):
        raise UsageError(f"{escape_name(text)} names no bucket; write {scheme}://BUCKET/NAME.")
    return text.rstrip("/")


def is_remote(given: str | os.PathLike[str]) -> bool:
    """Tells whether something is at an address other than one of this machine; errors are those of `as_location`."""
    return isinstance(as_location(given), str)


def as_local_path(given: str | os.PathLike[str], what: str = "this") -> Path:
    """Converts what has to be on this machine.

    Args:
        given: A path, or a file:// address.
        what: What it is, for the message: "--alpha-map".

    Raises:
        UsageError: It is another address.
    """
    location = as_location(given)
    if isinstance(location, str):
        raise UsageError(f"{escape_name(location)} is an address, and {what} has to be a path on this machine.")
    return location


def join_location(folder: str, name: str) -> str:
    """Joins a folder and a path below it."""
    if not is_address(folder):
        return os.path.join(folder, name)
    below = name.replace(os.sep, "/")
    return f"{folder.rstrip('/')}/{below}" if below else folder


def split_location(location: Location) -> tuple[str, str]:
    """Splits a location into its folder and its name there."""
    if isinstance(location, Path):
        return os.path.split(location)
    folder, _, name = location.rpartition("/")
    return folder, name


def name_of(location: Location) -> PurePosixPath | Path:
    """Returns the last part of a location, which has a stem and a suffix."""
    return location if isinstance(location, Path) else PurePosixPath(location.rpartition("/")[2])


def _parse_file_address(text: str) -> Path:
    from urllib.parse import unquote

    host, _, path = text.partition("://")[2].partition("/")
    if host not in ("", "localhost"):
        raise UsageError(
            f"{escape_name(text)} names the machine {escape_name(host)}; a file of this one has three slashes, file:///FOLDER/FILE."
        )
    return Path(unquote(path if os.name == "nt" else f"/{path}"))  # /C:/Users of Windows

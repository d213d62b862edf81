"""Small text files of users: read with a size limit, decoded, parsed as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, BinaryIO

from dni_deploy.errors import DniError, InputError, LimitError, UsageError, escape_name
from dni_deploy.utils.address import as_local_path

MAX_TEXT_FILE_BYTES = 64 << 20


@contextmanager
def open_file(path: str | os.PathLike[str], what: str) -> Iterator[BinaryIO]:
    """Opens a regular file for reading.

    Args:
        path: The file.
        what: What it is, for messages: "alpha log".

    Yields:
        The stream.

    Raises:
        InputError: The file is missing, not a regular file, or cannot be opened or read.
    """
    try:
        path = as_local_path(path, f"the {what}")
        if not path.is_file():
            problem = "is not a file" if os.path.lexists(path) else "does not exist"
            raise InputError(f"The {what} {escape_name(path)} {problem}.")
        with open(path, "rb") as stream:
            yield stream
    except DniError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The {what} {escape_name(path)} cannot be read ({escape_name(reason)}).") from error


def hash_file(path: str | os.PathLike[str], what: str) -> str:
    """Computes the SHA-256 of a regular file, in hex; arguments and errors are those of `open_file`."""
    digest = sha256()
    with open_file(path, what) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_text(path: str | os.PathLike[str], what: str, limit: int = MAX_TEXT_FILE_BYTES) -> str:
    """Reads a regular file of UTF-8 text, with or without a byte order mark.

    Args:
        path: The file.
        what: What it is, for messages: "timeline".
        limit: Its largest size in bytes.

    Returns:
        The text.

    Raises:
        InputError: The file cannot be read, as in `open_file`, or is not UTF-8.
        LimitError: It is too large.
    """
    with open_file(path, what) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise LimitError(f"The {what} {escape_name(path)} has more than {limit:,} bytes, the limit.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{escape_name(path)}: byte {error.start} is not UTF-8 text.") from None


def read_json(path: str | os.PathLike[str], what: str, limit: int = MAX_TEXT_FILE_BYTES) -> Any:
    """Reads and parses a JSON file; arguments and errors are those of `read_text`, and InputError where it is no JSON."""
    text = read_text(path, what, limit)
    with name_file_in_errors(path):
        return load_json(text)


@contextmanager
def name_file_in_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the file's name before the message of a UsageError, which becomes an InputError, and of a LimitError."""
    try:
        yield
    except LimitError as error:
        raise LimitError(f"{escape_name(path)}: {error}") from None
    except UsageError as error:
        raise InputError(f"{escape_name(path)}: {error}") from None


def load_json(text: str, allow_nan: bool = True) -> Any:
    """Parses JSON.

    Args:
        text: The text.
        allow_nan: Whether NaN and infinities are allowed, which Python reads and JSON does not have.

    Raises:
        UsageError: It is no JSON, is nested too deeply, or has an object with one key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_make_unique_dict, parse_constant=float if allow_nan else _refuse_constant)
    except UsageError:
        raise
    except RecursionError:
        raise UsageError("it is not JSON (nested too deeply).") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"it is not JSON ({escape_name(error)}).") from None
    except ValueError:  # Python's limit for whole numbers
        raise UsageError(f"it is not JSON (a number has more than {sys.get_int_max_str_digits():,} digits).") from None


def _refuse_constant(name: str) -> None:
    raise UsageError(f"{name} is not JSON.")


def _make_unique_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise UsageError(f"an object has the key {escape_name(key)!r} twice.")
        fields[key] = value
    return fields

"""Small text files of users: read with a size limit, decoded, parsed as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dni_deploy.errors import InputError, LimitError, UsageError, escape_name

MAX_TEXT_FILE_BYTES = 64 << 20


def read_bytes(path: str | os.PathLike[str], what: str = "timeline", limit: int = MAX_TEXT_FILE_BYTES) -> bytes:
    """A whole regular file of at most `limit` bytes. Raises InputError, LimitError."""
    try:
        if not Path(path).is_file():
            raise InputError(
                f"The {what} {escape_name(path)} {'is not a file' if os.path.lexists(path) else 'does not exist'}."
            )
        with open(path, "rb") as stream:
            data = stream.read(limit + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The {what} {escape_name(path)} cannot be read ({escape_name(reason)}).") from error
    if len(data) > limit:
        raise LimitError(f"The {what} {escape_name(path)} has more than {limit:,} bytes, the limit.")
    return data


def as_text(data: bytes) -> str:
    """UTF-8, with or without its mark. Raises UsageError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"byte {error.start} is not UTF-8 text.") from None


def load_json(text: str) -> Any:
    """Any JSON; raises UsageError where it is none, is nested without end, or says one key of an object twice."""

    def make_unique_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
            raise UsageError(f"an object has the key {escape_name(twice)!r} twice.")
        return found

    try:
        return json.loads(text, object_pairs_hook=make_unique_dict)
    except UsageError:
        raise
    except (ValueError, RecursionError) as error:
        raise UsageError(f"it is not JSON ({escape_name(error)}).") from None

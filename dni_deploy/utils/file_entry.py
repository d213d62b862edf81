"""PATH#ENTRY, which names one entry of a file that holds several networks."""

from __future__ import annotations

import os


def split_entry(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Splits "PATH#ENTRY" into the path and the entry; a file whose own name has a "#" is a path alone."""
    text = os.fspath(path)
    file, _, entry = text.rpartition("#")
    return (file, entry) if file and entry and not os.path.lexists(text) else (text, None)

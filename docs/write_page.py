"""Writes a generated page, or checks that the committed one is up to date."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(target: Path, text: str, source: str) -> int:
    """Writes the page; with --check on the command line it compares instead.

    Args:
        target: The page.
        text: Its whole text.
        source: What the page is made from, for the message.

    Returns:
        The exit code: 1 where the committed page differs.
    """
    if "--check" not in sys.argv:
        target.write_text(text, encoding="utf-8")
        return 0
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return 0
    print(f"docs/{target.name} is not what the {source} say; run: make docs")
    return 1

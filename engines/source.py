"""Source: the fingerprint of our own code that a plan depends on. Another lowering may lay weights out otherwise."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from pathlib import Path

ENGINES = Path(__file__).parent


@lru_cache(maxsize=8)
def fingerprint(*parts: str) -> str:
    """SHA-256 in hex over the source of these files and folders, given relative to `engines/`."""
    digest = sha256()
    for part in parts:
        path = ENGINES / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()

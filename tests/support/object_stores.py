"""Stores of objects for tests: fsspec's one in memory, with a count of what is asked of it, and errors on demand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.storage import object_store


class CountingStore:
    """fsspec's store in memory.

    Attributes:
        calls: Number of calls by name of the method.
        failures: Errors that the next calls of a method raise, in their order.
    """

    def __init__(self, files: Any) -> None:
        self.files = files
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, list[Exception]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.files, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls[name] += 1
            if self.failures.get(name):
                raise self.failures[name].pop(0)
            return method(*arguments, **keywords)

        return call

    def put(self, address: str, data: bytes) -> None:
        """Puts an object there without being counted."""
        self.files.pipe_file(address, data)

    def put_folder(self, address: str, folder: Path) -> None:
        """Copies the files of a folder."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{address}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def get(self, address: str) -> bytes:
        """Returns an object."""
        data: bytes = self.files.cat_file(address)
        return data

    def list_all(self) -> list[str]:
        """Returns the paths of all objects."""
        return sorted(self.files.store)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingStore]:
    """Opens memory:// as an empty store that counts, and waits for nothing between attempts."""
    fsspec = pytest.importorskip("fsspec")
    counting = CountingStore(fsspec.filesystem("memory"))
    counting.files.store.clear()
    counting.files.pseudo_dirs[:] = [""]
    open_store = object_store._open_store
    monkeypatch.setattr(object_store, "_open_store", lambda scheme: counting if scheme == "memory" else open_store(scheme))
    monkeypatch.setattr(object_store, "RETRY_WAITS_S", (0.0, 0.0, 0.0))
    yield counting
    counting.files.store.clear()

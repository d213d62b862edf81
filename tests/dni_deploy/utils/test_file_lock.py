"""File locks: one holder at a time, on both kinds of system, and none needed where the file system has no locks."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dni_deploy.utils import file_lock


def test_a_second_descriptor_waits_for_the_first_to_be_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with open(path, "wb") as first, open(path, "wb") as second:
        assert file_lock.try_lock(first.fileno())
        assert not file_lock.try_lock(second.fileno())
        assert not file_lock.try_lock(second.fileno(), shared=True)
        first.close()
        assert file_lock.try_lock(second.fileno(), shared=True)
        with open(path, "wb") as third:
            assert file_lock.try_lock(third.fileno(), shared=True)
            assert not file_lock.try_lock(third.fileno())


@pytest.mark.parametrize(("number", "locked"), [(errno.ENOTSUP, True), (errno.ENOLCK, True), (errno.EWOULDBLOCK, False)])
def test_a_file_system_without_locks_keeps_nobody_out(number: int, locked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, shared: bool) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(file_lock, "_lock", fail)
    assert file_lock.try_lock(0) is locked


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Imports the module as Windows would: without fcntl, with msvcrt."""
    calls: list[Any] = []
    msvcrt = ModuleType("msvcrt")
    msvcrt.LK_NBLCK = 2  # type: ignore[attr-defined]
    msvcrt.locking = lambda *arguments: calls.append(arguments)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setitem(sys.modules, "fcntl", None)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", "win32")
    importlib.reload(file_lock)
    yield calls
    monkeypatch.undo()
    importlib.reload(file_lock)


def test_windows_locks_the_first_byte(windows: list[Any]) -> None:
    assert file_lock.try_lock(7)
    assert file_lock.try_lock(7, shared=True)
    assert windows == [(7, 2, 1)]

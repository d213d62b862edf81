"""Files that are programs: written for their owner alone, and refused where somebody else could have written them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dni_deploy.errors import RefusedError, UsageError
from dni_deploy.utils.private_file import open_private_file, write_private_file


def read(path: Path) -> bytes:
    with open_private_file(path, "a plan", "make your own") as file:
        return file.read()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    before = os.umask(0)
    try:
        write_private_file(path, (b"head", b"body"))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read(path) == b"headbody"
    with pytest.raises(UsageError, match="exists"):
        write_private_file(path, (b"other",))
    write_private_file(path, (b"other",), force=True)
    assert read(path) == b"other"
    assert list(tmp_path.iterdir()) == [path]


def test_what_somebody_else_could_have_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.plan"
    write_private_file(path, (b"content",))
    for mode in (0o620, 0o602, 0o666):
        path.chmod(mode)
        with pytest.raises(RefusedError, match=rf"can be written by others \(mode 0{mode:o}\), and a plan is a program"):
            read(path)
    path.chmod(0o644)
    assert read(path) == b"content"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    if os.getuid():  # root's files are trusted by everybody
        with pytest.raises(RefusedError, match=r"belongs to user \d+, and a plan is a program: refused; make your own\."):
            read(path)


def test_links_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    write_private_file(path, (b"content",))
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(RefusedError, match="a plan is a program: refused"):
            read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")

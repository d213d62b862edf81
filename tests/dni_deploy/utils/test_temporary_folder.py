"""A full or failing folder for temporary files is explained; errors of other files are not touched."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from dni_deploy.errors import DniError, InputError, LimitError, UsageError
from dni_deploy.utils.temporary_folder import make_temporary_folder


def test_the_folder_is_gone_after_the_block() -> None:
    with make_temporary_folder() as folder:
        (folder / "file").write_bytes(b"x")
        (folder / "inner").mkdir()
    assert not folder.exists()
    with pytest.raises(UsageError), make_temporary_folder() as folder:
        raise UsageError("of the block")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (errno.ENOSPC, LimitError, r"no room in the folder for temporary files, .*; free some space"),
        (errno.EDQUOT, LimitError, "no room in"),
        (errno.EIO, InputError, r"(?s)Nothing can be written to .*set TMPDIR"),
        (errno.EROFS, InputError, "Nothing can be written to"),
    ],
)
def test_errors_of_the_system_are_explained(code: int, kind: type[DniError], message: str) -> None:
    with pytest.raises(kind, match=message), make_temporary_folder():
        raise OSError(code, os.strerror(code))  # as write raises it, without a name


def test_a_folder_that_cannot_be_made_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="Nothing can be written to"), make_temporary_folder():
        pytest.fail("entered")


def test_errors_of_other_files_pass_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(FileNotFoundError), make_temporary_folder():
        open("/nowhere/input.png")  # noqa: SIM115

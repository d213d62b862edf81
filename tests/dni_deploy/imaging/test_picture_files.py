"""Which files are meant where pictures, or folders of them, are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni_deploy.errors import InputError
from dni_deploy.imaging.picture_files import listed, pictures_in, pictures_of


def test_a_folder_gives_its_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    found = [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert pictures_in(tmp_path) == (found, 1)
    assert pictures_of(tmp_path) == found
    assert pictures_of([tmp_path / "given.png", tmp_path]) == [tmp_path / "given.png", *found]
    assert listed("x.png") == [Path("x.png")]


def test_a_folder_without_any(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no picture"):
        pictures_of([tmp_path])
    with pytest.raises(InputError, match="cannot be read"):
        pictures_in(tmp_path / "none")

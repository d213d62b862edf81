"""Which files are meant where pictures, or folders of them, are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni_deploy.errors import InputError
from dni_deploy.imaging.picture_files import as_path_list, list_folder_images, list_images


def test_a_folder_gives_its_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    found = [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert list_folder_images(tmp_path) == (found, 1)
    assert list_images(tmp_path) == found
    assert list_images([tmp_path / "given.png", tmp_path]) == [tmp_path / "given.png", *found]
    assert as_path_list("x.png") == [Path("x.png")]


def test_a_folder_without_any(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no picture"):
        list_images([tmp_path])
    with pytest.raises(InputError, match="cannot be read"):
        list_folder_images(tmp_path / "none")

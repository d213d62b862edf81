"""Lists of image files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni_deploy.errors import InputError
from dni_deploy.imaging.image_paths import as_path_list, list_folder_images, list_images


def test_images_of_a_folder_are_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    paths = [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert list_folder_images(tmp_path) == (paths, 1)
    assert list_images(tmp_path) == paths
    assert list_images([tmp_path / "given.png", tmp_path]) == [tmp_path / "given.png", *paths]
    assert as_path_list("x.png") == [Path("x.png")]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        list_images([tmp_path])
    with pytest.raises(InputError, match="cannot be read"):
        list_folder_images(tmp_path / "none")

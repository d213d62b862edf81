"""Lists of image files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni_deploy.errors import InputError
from dni_deploy.imaging.image_paths import as_path_list, list_images, scan_images


def test_images_of_a_folder_are_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    paths = [tmp_path / "a.JPG", tmp_path / "b.png"]
    [scanned] = scan_images(tmp_path)
    assert (scanned.images, scanned.others) == (["a.JPG", "b.png"], ["notes.txt"])
    assert list_images(tmp_path) == paths
    assert list_images([tmp_path / "given.png", tmp_path]) == [tmp_path / "given.png", *paths]
    assert as_path_list("x.png") == [Path("x.png")]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        list_images([tmp_path])
    with pytest.raises(InputError, match="cannot be read"):
        scan_images(tmp_path / "none")


def test_a_data_set_in_parts_is_one_where_that_is_meant(tmp_path: Path) -> None:
    for name in ("train/b.png", "train/a.png", "test/deep/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = [tmp_path / name for name in ("test/deep/c.jpg", "train/a.png", "train/b.png")]
    assert list_images(tmp_path, enter_folders=True) == expected
    with pytest.raises(InputError, match="the folders in it are not entered"):
        list_images(tmp_path)
    (tmp_path / "own.png").touch()
    assert list_images(tmp_path, enter_folders=True) == [tmp_path / "own.png"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="neither do the folders in it"):
        list_images(tmp_path / "none", enter_folders=True)

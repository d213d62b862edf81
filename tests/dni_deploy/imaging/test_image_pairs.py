"""Images find their references by order or by name, in folders of folders too, and nothing is matched by chance."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni_deploy.errors import InputError, MismatchError, UsageError
from dni_deploy.imaging.image_pairs import NamedImage, check_reference_size, name_images, pair_with_references


def make(folder: Path, *names: str) -> Path:
    """Makes files of these names; none is opened by what is tested."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def pairs_of(noisy: Path, clean: Path, *, recursive: bool = False) -> dict[str, str]:
    pairs = pair_with_references(name_images(noisy, recursive=recursive), clean, recursive=recursive)
    return {pair.name: Path(pair.reference or "").relative_to(clean).as_posix() for pair in pairs}


def test_folders_are_matched_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    noisy = make(tmp_path / "noisy", "a.png", "b.jpg", "notes.txt")
    clean = make(tmp_path / "clean", "b.png", "a.bmp", "c.png")
    assert pairs_of(noisy, clean) == {"a.png": "a.bmp", "b.jpg": "b.png"}


def test_the_own_suffix_comes_first(tmp_path: Path) -> None:
    noisy = make(tmp_path / "noisy", "a.jpg", "a.png")
    clean = make(tmp_path / "clean", "a.png", "a.jpg")
    assert pairs_of(noisy, clean) == {"a.jpg": "a.jpg", "a.png": "a.png"}


def test_folders_in_folders_are_matched_by_their_path(tmp_path: Path) -> None:
    noisy = make(tmp_path / "noisy", "a.png", "x/a.png", "y/z/a.png")
    clean = make(tmp_path / "clean", "y/z/a.png", "x/a.png", "a.png", "x/other.png")
    assert pairs_of(noisy, clean) == {"a.png": "a.png"}
    assert pairs_of(noisy, clean, recursive=True) == {name: name for name in ("a.png", "x/a.png", "y/z/a.png")}
    (clean / "x" / "a.png").unlink()
    with pytest.raises(InputError, match=r"no reference named x/a for .*a\.png; of 3 images 1 have none"):
        pairs_of(noisy, clean, recursive=True)


def test_files_are_matched_by_their_order(tmp_path: Path) -> None:
    one, two, three, four = (str(tmp_path / name) for name in "abcd")
    images = name_images([one, two])
    assert [pair[1:] for pair in pair_with_references(images, [four, three])] == [(one, four), (two, three)]
    assert [pair[1:] for pair in pair_with_references(images, None)] == [(one, None), (two, None)]
    with pytest.raises(UsageError, match="There are 2 images and 1 references"):
        pair_with_references(images, [three])


def test_an_ambiguous_reference_is_refused(tmp_path: Path) -> None:
    noisy = make(tmp_path / "noisy", "a.png")
    clean = make(tmp_path / "clean", "a.jpg", "a.bmp")
    with pytest.raises(InputError, match=r"2 references for .*a\.png: .*a\.bmp and .*a\.jpg"):
        pairs_of(noisy, clean)


def test_two_images_of_one_name_are_refused_where_names_decide(tmp_path: Path) -> None:
    clean = make(tmp_path / "clean", "a.png")
    images = [NamedImage("a.png", "one/a.png"), NamedImage("a.png", "two/a.png")]
    with pytest.raises(UsageError, match=r"one/a\.png and two/a\.png have one name"):
        pair_with_references(images, clean)
    assert len(pair_with_references(images, ["c.png", "d.png"])) == 2


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    noisy, empty = make(tmp_path / "noisy", "a.png"), tmp_path / "empty"
    empty.mkdir()
    for source, clean in ((empty, noisy), (noisy, empty)):
        with pytest.raises(InputError, match="holds no image"):
            pairs_of(source, clean)


def test_sizes_are_named_width_first() -> None:
    check_reference_size("in.png", "clean.png", (20, 30), (20, 30))
    with pytest.raises(MismatchError, match=r"clean\.png is 31x20 pixels and the output for in\.png will be 30x20"):
        check_reference_size("in.png", "clean.png", (20, 30), (20, 31))

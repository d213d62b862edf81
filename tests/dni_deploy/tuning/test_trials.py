"""Trials: images are paired with their references, and large pairs are cropped alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.errors import InputError, MismatchError, UsageError
from dni_deploy.imaging.image_paths import list_images
from dni_deploy.signature import Signature
from dni_deploy.tuning.trials import DEFAULT_CROP_PX, pair_with_references, read_test_images


def write(path: Path, height: int, width: int, seed: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def test_folders_are_matched_by_name_without_suffix(tmp_path: Path) -> None:
    noisy = [write(tmp_path / "noisy" / name, 8, 8) for name in ("a.png", "b.jpg")]
    clean = [write(tmp_path / "clean" / name, 8, 8) for name in ("b.png", "a.bmp", "c.png")]
    (tmp_path / "noisy" / "notes.txt").write_text("no picture")
    pairs = pair_with_references(list_images([tmp_path / "noisy"]), [tmp_path / "clean"])
    assert pairs == [(noisy[0], clean[1]), (noisy[1], clean[0])]


def test_files_are_matched_by_their_order(tmp_path: Path) -> None:
    one, two, three, four = (tmp_path / name for name in "abcd")
    assert pair_with_references([one, two], [four, three]) == [(one, four), (two, three)]
    assert pair_with_references([one], []) == [(one, None)]
    with pytest.raises(UsageError, match="There are 2 images and 1 references"):
        pair_with_references([one, two], [three])


def test_a_missing_reference_is_reported_by_name(tmp_path: Path) -> None:
    write(tmp_path / "noisy" / "a.png", 8, 8)
    write(tmp_path / "clean" / "b.png", 8, 8)
    with pytest.raises(InputError, match="no reference named a"):
        pair_with_references(list_images([tmp_path / "noisy"]), [tmp_path / "clean"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        list_images([tmp_path / "empty"])


@pytest.mark.parametrize("scale", [1, 2])
def test_a_large_image_is_cropped_to_its_center_and_the_report_says_so(tmp_path: Path, scale: int) -> None:
    height, width = DEFAULT_CROP_PX + 37, DEFAULT_CROP_PX - 6
    source = write(tmp_path / "in.png", height, width)
    clean = write(tmp_path / "clean.png", scale * height, scale * width, seed=1)
    [trial], notes = read_test_images([(source, clean)], Signature(scale=scale, multiple=4), None)
    top = (height - DEFAULT_CROP_PX) // 2
    with Image.open(source) as whole, Image.open(clean) as reference:
        np.testing.assert_array_equal(trial.frame, np.array(whole)[top : top + DEFAULT_CROP_PX])
        np.testing.assert_array_equal(trial.reference, np.array(reference)[scale * top : scale * (top + DEFAULT_CROP_PX)])
    assert notes == [
        f"Judged by the middle of in.png ({width}x{DEFAULT_CROP_PX} of {width}x{height}); --crop 0 uses whole images."
    ]
    [uncropped], notes = read_test_images([(source, clean)], Signature(scale=scale, multiple=4), 0)
    assert (uncropped.frame.shape, notes) == ((height, width, 3), [])
    [part], _ = read_test_images([(source, clean)], Signature(scale=scale, multiple=8), 100)
    assert part.frame.shape == (96, 96, 3)


def test_a_reference_of_another_size_is_refused(tmp_path: Path) -> None:
    pair = (write(tmp_path / "in.png", 20, 30), write(tmp_path / "clean.png", 20, 31))
    with pytest.raises(MismatchError, match=r"is 31x20 pixels and the output for .*in.png will be 60x40"):
        read_test_images([pair], Signature(scale=2), None)

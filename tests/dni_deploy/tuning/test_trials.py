"""Trials: large images and their references are cropped alike, and pixels of one meaning are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.errors import MismatchError
from dni_deploy.imaging.image_file import ImageFile, write_image
from dni_deploy.imaging.image_pairs import ImagePair
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.signature import Signature
from dni_deploy.tuning.trials import DEFAULT_CROP_PX, read_test_image, read_test_images
from tests.support.color_files import ADOBE_ICC, render_by_profile


def write(path: Path, height: int, width: int, seed: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def pair_of(source: Path, clean: Path) -> ImagePair:
    return ImagePair(source.name, str(source), str(clean))


@pytest.mark.parametrize("scale", [1, 2])
def test_a_large_image_is_cropped_to_its_center_and_the_report_says_so(tmp_path: Path, scale: int) -> None:
    height, width = DEFAULT_CROP_PX + 37, DEFAULT_CROP_PX - 6
    source = write(tmp_path / "in.png", height, width)
    clean = write(tmp_path / "clean.png", scale * height, scale * width, seed=1)
    [trial], notes = read_test_images([pair_of(source, clean)], Signature(scale=scale, multiple=4), None)
    top = (height - DEFAULT_CROP_PX) // 2
    with Image.open(source) as whole, Image.open(clean) as reference:
        np.testing.assert_array_equal(trial.frame, np.array(whole)[top : top + DEFAULT_CROP_PX])
        np.testing.assert_array_equal(trial.reference, np.array(reference)[scale * top : scale * (top + DEFAULT_CROP_PX)])
    assert notes == [
        f"Judged by the middle of in.png ({width}x{DEFAULT_CROP_PX} of {width}x{height}); --crop 0 uses whole images."
    ]
    [uncropped], notes = read_test_images([pair_of(source, clean)], Signature(scale=scale, multiple=4), 0)
    assert (uncropped.frame.shape, notes) == ((height, width, 3), [])
    [part], _ = read_test_images([pair_of(source, clean)], Signature(scale=scale, multiple=8), 100)
    assert part.frame.shape == (96, 96, 3)


def test_a_reference_of_another_size_is_refused(tmp_path: Path) -> None:
    pair = (write(tmp_path / "in.png", 20, 30), write(tmp_path / "clean.png", 20, 31))
    with pytest.raises(MismatchError, match=r"is 31x20 pixels and the output for .*in.png will be 60x40"):
        read_test_images([pair_of(*pair)], Signature(scale=2), None)


def test_an_image_of_16_bits_is_judged_at_its_depth(tmp_path: Path) -> None:
    """Between two levels of 8 bits: rounded, both would be equal."""
    deep = np.full((8, 8, 3), 100 * 257 + 60, np.uint16)
    write_image(tmp_path / "in.png", ImageFile(deep))
    write_image(tmp_path / "clean.png", ImageFile(deep - np.uint16(120)))
    image = read_test_image(pair_of(tmp_path / "in.png", tmp_path / "clean.png"), Signature())
    assert image.frame.dtype == np.uint16
    difference = psnr(image.to_levels(image.frame), image.reference_levels)
    assert difference == pytest.approx(20 * np.log10(255 / (120 / 257)), abs=1e-3)
    np.testing.assert_array_equal(image.to_frame(image.frame), image.reference_frame)


def test_colors_of_two_profiles_are_compared_as_they_look(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(40, 200, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "adobe.png", icc_profile=ADOBE_ICC)
    Image.fromarray(render_by_profile(pixels, ADOBE_ICC)).save(tmp_path / "srgb.png")
    for source, clean in (("adobe.png", "srgb.png"), ("srgb.png", "adobe.png")):
        image = read_test_image(pair_of(tmp_path / source, tmp_path / clean), Signature())
        assert psnr(image.to_levels(image.frame), image.reference_levels) > 50
        assert psnr(image.to_frame(image.frame), image.reference_frame) > 50
    same = read_test_image(pair_of(tmp_path / "adobe.png", tmp_path / "adobe.png"), Signature())
    np.testing.assert_array_equal(same.to_frame(same.frame), pixels)

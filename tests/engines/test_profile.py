"""Profiles: how missing shapes are derived from the given ones, and which shapes are refused."""

from __future__ import annotations

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.signature import Signature
from engines.profile import Profile

RGB, LATENT = Signature(), Signature(kind="latent", input_channels=64)
GRAY = Signature(input_channels=1, output_channels=1)


def shapes(signature: Signature = RGB, **given: str) -> tuple[str, ...]:
    profile = Profile.from_shapes(signature, **given)
    return tuple("x".join(map(str, shape)) for shape in (profile.smallest, profile.tuned, profile.largest))


def test_default_profile_is_tuned_for_720p_up_to_full_hd() -> None:
    assert shapes() == ("1x3x32x32", "1x3x720x1280", "1x3x1088x1920")
    assert shapes(Signature(multiple=24)) == ("1x3x48x48", "1x3x720x1296", "1x3x1104x1920")


def test_optimum_shape_alone_gives_a_fixed_profile() -> None:
    assert shapes(tuned="1x3x256x128") == ("1x3x256x128",) * 3
    assert Profile.from_shapes(RGB, tuned="1x3x64x64").is_fixed
    assert str(Profile.from_shapes(RGB, tuned=(1, 3, 64, 64))) == "1x3x64x64"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"smallest": "1x3x64x64"}, ("1x3x64x64", "1x3x720x1280", "1x3x1088x1920")),
        ({"largest": "1x3x480x640"}, ("1x3x32x32", "1x3x480x640", "1x3x480x640")),
        ({"largest": "1x3x16x16"}, ("1x3x16x16", "1x3x16x16", "1x3x16x16")),
        ({"tuned": "1x3x512x512", "largest": "4x3x2160x3840"}, ("1x3x32x32", "1x3x512x512", "4x3x2160x3840")),
        ({"smallest": "1x3x2000x2000"}, ("1x3x2000x2000", "1x3x2000x2000", "1x3x2000x2000")),
    ],
)
def test_missing_shapes_are_derived_from_the_given_ones(given: dict[str, str], expected: tuple[str, ...]) -> None:
    assert shapes(**given) == expected


def test_gray_network_takes_the_colors_of_a_frame_as_a_batch() -> None:
    assert shapes(GRAY) == ("1x1x32x32", "3x1x720x1280", "3x1x1088x1920")
    assert shapes(GRAY, tuned="3x1x64x64") == ("3x1x64x64",) * 3
    assert shapes(Signature(input_channels=1, output_channels=2), tuned="1x1x64x64") == ("1x1x64x64",) * 3  # takes no frames


@pytest.mark.parametrize(
    ("signature", "given", "batch"),
    [
        (GRAY, {"tuned": "1x1x64x64"}, "write 3x1xHxW"),
        (GRAY, {"largest": "1x1x64x64"}, "write 3x1xHxW"),
        (GRAY, {"smallest": "4x1x64x64"}, "write 3x1xHxW"),
        (RGB, {"tuned": "2x3x64x64"}, "write 1x3xHxW"),
    ],
)
def test_batch_that_no_frame_has_is_refused(signature: Signature, given: dict[str, str], batch: str) -> None:
    with pytest.raises(UsageError, match=batch):
        Profile.from_shapes(signature, **given)


def test_latent_input_has_one_shape() -> None:
    assert shapes(LATENT) == ("1x64x1x1",) * 3
    assert shapes(LATENT, largest="8x64x1x1") == ("1x64x1x1", "1x64x1x1", "8x64x1x1")


def test_profile_contains_the_shapes_in_between() -> None:
    profile = Profile.from_shapes(RGB, "1x3x32x32", "1x3x64x64", "2x3x128x128")
    assert profile.contains_shape((2, 3, 40, 128))
    assert not profile.contains_shape((1, 3, 31, 64))
    assert not profile.contains_shape((3, 64, 64))
    assert str(profile) == "min 1x3x32x32, opt 1x3x64x64, max 2x3x128x128"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("256x256", "is not a shape; write NxCxHxW"),
        ("1x3x0x8", "four numbers from 1 to 16384"),
        ("1x3x8x16385", "four numbers from 1 to 16384"),
        ((1, 3, 8), "four numbers from 1 to 16384"),
        ("1x4x8x8", "takes 3 channels; 1x4x8x8 has 4"),
    ],
)
def test_invalid_network_shapes_are_refused(shape: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Profile.from_shapes(RGB, tuned=shape)


def test_shapes_out_of_order_and_odd_sides_are_refused() -> None:
    with pytest.raises(UsageError, match="min <= opt <= max"):
        Profile.from_shapes(RGB, "1x3x64x64", "1x3x32x32")
    with pytest.raises(UsageError, match="multiples of 8"):
        Profile.from_shapes(Signature(multiple=8), tuned="1x3x20x16")


def test_no_shape_is_below_the_networks_minimum() -> None:
    assert Profile.from_shapes(Signature(minimum=40)).smallest == (1, 3, 40, 40)
    with pytest.raises(UsageError, match="at least 40; got 1x3x64x32"):
        Profile.from_shapes(Signature(minimum=40), tuned="1x3x64x32")

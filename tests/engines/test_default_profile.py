"""The default profile: bounded by the network's scale and by the GPU's whole memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engines.cuda import driver
from engines.default_profile import make_profile, measure_largest_tensor
from tests.engines.conftest import Case, write
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import Hand

GIB = 1 << 30


def make_enlarging_network(scale: int, channels: int = 3, width: int = 64) -> Hand:
    """Conv to `width` channels at the output's size, Conv to the image."""
    hand = Hand(channels)
    x = hand.conv("x", width * scale**2)
    x = hand.node("DepthToSpace", [x], width, blocksize=scale) if scale > 1 else x
    hand.conv(x, channels)
    return hand


def largest_shape(folder: Path, memory: int | None, *, scale: int, precision: str = "fp32", channels: int = 3) -> str:
    hand = make_enlarging_network(scale, channels)
    bundle = write(hand.case(hand.nodes[-1].output[0], scale=scale), folder / f"{channels}.dni")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "query_total_memory", lambda device: memory)
        profile = make_profile(bundle, precision)
    assert all(low <= middle for low, middle in zip(profile.tuned, profile.largest, strict=True))
    return "x".join(map(str, profile.largest))


@pytest.mark.parametrize(("scale", "expected"), [(1, "1x3x1088x1920"), (2, "1x3x1088x1920"), (4, "1x3x720x1280")])
def test_a_network_that_enlarges_much_gets_the_tuned_size(scale: int, expected: str, tmp_path: Path) -> None:
    assert largest_shape(tmp_path, 141 * GIB, scale=scale) == expected


@pytest.mark.parametrize(
    ("memory", "precision", "expected"),
    [
        # 64 channels of 5120 x 2880 are 1.9 GB in float16, three of them 5.7 GB; in float32 twice as much.
        (12 * GIB, "fp16", "1x3x720x1280"),
        (8 * GIB, "fp16", "1x3x544x960"),
        (24 * GIB, "fp32", "1x3x720x1280"),
        (12 * GIB, "tf32", "1x3x544x960"),
        (GIB // 2, "fp32", "1x3x256x256"),  # the smallest, whether it fits or not
        (None, "fp32", "1x3x720x1280"),
    ],
)
def test_a_small_gpu_gets_a_smaller_shape(memory: int | None, precision: str, expected: str, tmp_path: Path) -> None:
    assert largest_shape(tmp_path, memory, scale=4, precision=precision) == expected


def test_the_batch_of_a_gray_frame_counts(tmp_path: Path) -> None:
    assert largest_shape(tmp_path, 5 * GIB, scale=1, channels=3) == "1x3x1088x1920"
    assert largest_shape(tmp_path, 5 * GIB, scale=1, channels=1) == "3x1x720x1280"


def test_shapes_that_are_named_are_taken(tmp_path: Path) -> None:
    hand = make_enlarging_network(4)
    bundle = write(hand.case(hand.nodes[-1].output[0], scale=4), tmp_path / "x.dni")
    assert make_profile(bundle, "fp32", tuned="1x3x1088x1920").is_fixed
    assert make_profile(bundle, "fp32", largest="1x3x2160x3840").largest == (1, 3, 2160, 3840)


@pytest.mark.parametrize(("scale", "elements"), [(1, 64), (2, 64 * 4), (4, 64 * 16)])
def test_the_largest_tensor_is_measured(scale: int, elements: int, tmp_path: Path) -> None:
    hand = make_enlarging_network(scale)
    bundle = write(hand.case(hand.nodes[-1].output[0], scale=scale), tmp_path / "x.dni")
    assert measure_largest_tensor(bundle) == elements


@pytest.mark.parametrize("name", ["rrdbnet_x2", "cyclegan", "dncnn_bn_kair"])
def test_the_largest_tensor_of_an_exported_network(name: str, pico_case: Callable[[str], Case], tmp_path: Path) -> None:
    """They compute shapes from shapes, pad, and take gray frames."""
    case = pico_case(name)
    bundle = write(case, tmp_path / "x.dni")
    assert case.signature.frame_batch * case.signature.scale**2 <= measure_largest_tensor(bundle) <= 100


def test_the_driver_tells_the_memory(gpu: FakeGpu) -> None:
    assert driver.query_total_memory(0) == gpu.memory.total
    assert driver.query_total_memory(1) is None


def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "load_driver_library", lambda: None)
    assert driver.query_total_memory(0) is None

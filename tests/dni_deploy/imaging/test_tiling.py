"""Tiling: the joined output equals the untiled one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, UsageError
from dni_deploy.imaging.frames import from_network, to_network
from dni_deploy.imaging.image_file import read_image
from dni_deploy.imaging.tiling import count_tiles, default_overlap, run_tiled
from dni_deploy.signature import Signature

Infer = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def random_frame(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_filter(signature: Signature) -> Infer:
    """A network of known radius: the exact integer sum of the zero-padded (2r + 1) x (2r + 1) neighborhood.

    It pads frames to the signature's multiple like frames.py and then sees zeros beyond.
    """
    radius = signature.radius
    assert radius is not None

    def infer(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        x = np.rint(to_network(frame, signature)[0] * 255).astype(np.int64)
        padded = np.pad(x, ((0, 0), (radius, radius), (radius, radius)))
        size = 2 * radius + 1
        window = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
        y = window.sum(axis=(3, 4)) % 251  # the remainder makes any missing neighbor visible
        # A strided network depends on the position within its multiple: tiles off that grid would show.
        y += np.add.outer(np.arange(x.shape[1]) % signature.multiple, np.arange(x.shape[2]) % signature.multiple)
        y = y.repeat(signature.scale, axis=1).repeat(signature.scale, axis=2)[None]
        return from_network((y / 255).astype(np.float32), frame, signature)

    return infer


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(97, 61), (40, 113), (24, 100), (25, 23), (64, 64)])
def test_tiling_is_exact_when_the_overlap_reaches_the_radius(height: int, width: int, scale: int, multiple: int) -> None:
    signature = Signature(radius=5, multiple=multiple, scale=scale)
    frame = random_frame(height, width)
    shapes = set()

    def infer(piece: NDArray[np.uint8]) -> NDArray[np.uint8]:
        shapes.add(piece.shape)
        return box_filter(signature)(piece)

    whole = box_filter(signature)(frame)
    assert np.array_equal(run_tiled(partial(map, infer), frame, signature, tile=24), whole)
    assert len(shapes) == 1


def test_an_overlap_below_the_radius_shows_seams() -> None:
    signature = Signature(radius=5)
    frame = random_frame(97, 61)
    joined = run_tiled(partial(map, box_filter(signature)), frame, signature, tile=24, overlap=4)
    assert not np.array_equal(joined, box_filter(signature)(frame))


def test_a_frame_that_fits_in_one_tile_is_not_tiled() -> None:
    signature = Signature(radius=3)
    frame = random_frame(16, 20)
    assert run_tiled(partial(map, lambda piece: piece), frame, signature, tile=20) is frame
    assert run_tiled(partial(map, lambda piece: piece), random_frame(600, 4), signature, tile=0).shape == (600, 4, 3)
    assert count_tiles(16, 20, signature, tile=20) == 1
    assert count_tiles(16, 40, signature, tile=20) == 3  # 14 new columns per tile


def test_a_network_with_unbounded_receptive_field_is_not_tiled() -> None:
    frame = random_frame(700, 8)
    assert run_tiled(partial(map, lambda piece: piece), frame, Signature(radius=None)) is frame
    with pytest.raises(UsageError, match="tiles would show"):
        run_tiled(partial(map, lambda piece: piece), frame, Signature(radius=None), tile=256)


@pytest.mark.parametrize(("tile", "overlap"), [(32, 16), (8, 4), (-1, 4), (64, -1)])
def test_a_tile_without_room_beside_its_overlap_is_refused(tile: int, overlap: int) -> None:
    with pytest.raises(UsageError, match=r"overlap|Tile"):
        run_tiled(partial(map, lambda piece: piece), random_frame(100, 100), Signature(radius=3), tile=tile, overlap=overlap)


def test_a_tile_below_the_networks_minimum_is_refused() -> None:
    signature = Signature(radius=3, minimum=24)
    assert run_tiled(partial(map, lambda piece: piece), random_frame(100, 9), signature, tile=24).shape == (100, 9, 3)
    with pytest.raises(UsageError, match="no tile below 24 pixels; got 20"):
        run_tiled(partial(map, lambda piece: piece), random_frame(100, 100), signature, tile=20)


def test_an_engine_with_another_scale_than_its_signature_is_an_error() -> None:
    with pytest.raises(EngineError, match="scale"):
        run_tiled(partial(map, lambda piece: piece), random_frame(100, 100), Signature(radius=3, scale=2), tile=64)


@pytest.mark.parametrize(("name", "blocks"), [("dncnn", 0), ("rrdb", 5), pytest.param("rrdb", 23, marks=pytest.mark.slow)])
def test_seams_of_real_networks_stay_under_one_level(name: str, blocks: int) -> None:
    """DnCNN-17 is tiled at its radius; RRDBNets of 5 and 23 blocks have radii of 79 and 349 pixels and get LARGE_OVERLAP_PX."""
    torch = pytest.importorskip("torch", reason="the networks are computed by PyTorch (extra `export`)")
    torch.manual_seed(0)
    if name == "dncnn":
        from exporters.architectures.dncnn import DnCNN, initialize_weights

        net = initialize_weights(DnCNN(width=16)).eval()
        signature = Signature(radius=17)
    else:
        from exporters.architectures.rrdbnet import RRDBNet

        net = RRDBNet(width=16, growth=8, blocks=blocks).eval()
        with torch.no_grad():  # stronger than after any training, so distant pixels matter
            for parameter in net.parameters():
                parameter.mul_(1.5)
        signature = net.signature
        assert signature.radius == blocks * 15 + 4

    def infer(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            y = net(torch.from_numpy(to_network(frame, signature))).numpy()[0]
        return np.ascontiguousarray(y.transpose(1, 2, 0))

    frame = random_frame(100, 200) if name == "dncnn" else random_frame(40, 200)
    whole = infer(frame)
    span = whole.max() - whole.min()
    assert span > 0.02
    joined = run_tiled(partial(map, infer), frame, signature, tile=96 if name == "dncnn" else 112)
    overlap = default_overlap(signature)
    seam = np.abs(joined - whole).max() / max(span, 1.0)
    # At the radius only the order of float32 sums differs; beyond it the guarantee is one level of 255.
    assert seam < (1e-5 if overlap == signature.radius else 1 / 255)
    # Positive control: with almost no overlap the error is far above the first bound.
    rough = run_tiled(partial(map, infer), frame, signature, tile=64, overlap=1)
    assert np.abs(rough - whole).max() / max(span, 1.0) > 10 * max(seam, 1e-5)


@pytest.mark.slow
def test_a_trained_network_uses_less_than_its_receptive_field() -> None:
    """The adversarial member of the paper's super-resolution family has a radius of 34 pixels; only 12 of them matter.

    Random weights say little about this: training makes distant pixels matter. Influence that spreads block by block widens as
    the square root of their number; 2 blocks that need 8 pixels for a third of a level would then be 23 that need 27, which is an
    estimate, and the reason for the 32 of LARGE_OVERLAP_PX.
    """
    torch = pytest.importorskip("torch", reason="the network is computed by PyTorch (extra `export`)")
    safetensors = pytest.importorskip("safetensors.torch")
    from exporters.architectures.rrdbnet import RRDBNet

    root = Path(__file__).resolve().parents[3]
    net = RRDBNet(width=32, blocks=2, growth=16).eval()
    state = safetensors.load_file(root / "benchmarks" / "paper_reproduction" / "weights" / "sr" / "gan.safetensors")
    net.load_state_dict({key: value.float() for key, value in state.items()})
    signature = net.signature
    assert signature.radius == 34

    def infer(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.ascontiguousarray(net(torch.from_numpy(to_network(frame, signature))).numpy()[0].transpose(1, 2, 0))

    frame = np.ascontiguousarray(read_image(root / "dni_deploy" / "data" / "astronaut.png").rgb[60:156])
    whole = infer(frame)
    seams = {
        overlap: 255 * np.abs(run_tiled(partial(map, infer), frame, signature, tile=112, overlap=overlap) - whole).max()
        for overlap in (2, 8, 12)
    }
    # In levels of 255, before rounding. Measured 24, 0.3 and 0.003: each bound has room for a change of the arithmetic, not more.
    assert seams[2] > 5
    assert seams[8] < 0.5
    assert seams[12] < 0.01

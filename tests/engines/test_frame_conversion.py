"""Frame conversion of the engines: the pixels of the reference in imaging/frames.py, all of them, and as many at once."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from dni_deploy.imaging import frames
from dni_deploy.signature import Signature
from engines import frame_conversion
from engines.frame_conversion import HostFrameEngine, from_network, to_network

SIZES = [(1, 1), (1, 9), (9, 1), (3, 2), (13, 17), (67, 71), (211, 305)]
"""From one pixel to more than SMALL_FRAME_VALUES at scale 2."""

SIGNATURES = [
    Signature(),
    Signature(multiple=8),
    Signature(scale=2, multiple=4),
    Signature(scale=4),
    Signature(low=-1.0, multiple=4),
    Signature(low=-0.5, high=0.5, scale=2),
    Signature(residual=True, multiple=8),
    Signature(residual=True, low=-1.0),
    Signature(1, 1, scale=2),
    Signature(1, 1, residual=True, multiple=4),
]


def random_frame(height: int, width: int, dtype: Any) -> NDArray[Any]:
    rng = np.random.default_rng(height * 1000 + width)
    if dtype is np.float32:
        return rng.random((height, width, 3), np.float32)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


def random_output(x: NDArray[np.float32], signature: Signature) -> NDArray[np.float32]:
    """An output for this input, from somewhat below black to somewhat above white."""
    shape = (*x.shape[:2], signature.scale * x.shape[2], signature.scale * x.shape[3])
    span = signature.high - signature.low
    unit = np.random.default_rng(x.size).random(shape, np.float32)
    return (unit * np.float32(1.4 * span) + np.float32(signature.low - 0.2 * span)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("signature", SIGNATURES, ids=str)
def test_every_value_is_that_of_the_reference(signature: Signature, dtype: Any) -> None:
    for height, width in SIZES:
        frame = random_frame(height, width, dtype)
        x = to_network(frame, signature)
        assert np.array_equal(x, frames.to_network(frame, signature))
        y = random_output(x, signature)
        out = from_network(y, frame, signature)
        assert out.dtype == dtype
        assert out.flags.c_contiguous
        assert np.array_equal(out, frames.from_network(y, frame, signature))


def test_a_full_hd_output_is_that_of_the_reference() -> None:
    signature = Signature(scale=2)
    frame = random_frame(540, 960, np.uint8)
    y = random_output(to_network(frame, signature), signature)
    assert np.array_equal(from_network(y, frame, signature), frames.from_network(y, frame, signature))


def test_values_on_the_edge_between_two_levels_are_rounded_half_to_even() -> None:
    signature = Signature(high=255.0)
    frame = np.zeros((1, 512, 3), np.uint8)
    y = np.broadcast_to(np.arange(-1, 255, 0.5, dtype=np.float32), (1, 3, 1, 512)).copy()
    assert np.array_equal(from_network(y, frame, signature)[0, :, 0], np.clip(np.rint(y[0, 0, 0]), 0, 255))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [(5, 7), (420, 500)])
def test_one_value_that_is_not_finite_is_an_error(value: float, size: tuple[int, int]) -> None:
    frame = random_frame(*size, np.uint8)
    y = to_network(frame, Signature()).copy()
    y[0, 2, size[0] - 1, 3] = value
    with pytest.raises(EngineError, match=f"1 values of {frame.size}"):
        from_network(y, frame, Signature())


def test_finite_values_whose_sum_overflows_are_a_frame() -> None:
    frame = random_frame(6, 5, np.uint8)
    y = np.full((1, 3, 6, 5), 3e38, np.float32)
    assert (from_network(y, frame, Signature(high=255.0)) == 255).all()


def test_a_strided_frame_is_read_as_it_is() -> None:
    frame = random_frame(40, 60, np.uint8)[::2, ::-3]
    assert np.array_equal(to_network(frame, Signature(multiple=4)), frames.to_network(frame, Signature(multiple=4)))


class Meeting(HostFrameEngine):
    """An identity network that notes how many of its calls overlap; a frame's conversion is held up until another one is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = self.most = 0

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)  # long enough for another call to come in where nothing keeps it out
        self.inside -= 1
        return x


def test_frames_are_converted_side_by_side_and_run_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, both = Meeting(), threading.Barrier(2, timeout=20)

    def convert(frame: Any, signature: Signature) -> NDArray[np.float32]:
        both.wait()  # passes when two frames are converted at once
        return frames.to_network(frame, signature)

    monkeypatch.setattr(frame_conversion, "to_network", convert)
    frame = random_frame(4, 6, np.uint8)
    outputs: list[NDArray[Any]] = []
    threads = [threading.Thread(target=lambda: outputs.append(engine.render(0, frame, Signature()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [np.array_equal(output, frame) for output in outputs] == [True, True]
    assert engine.most == 1

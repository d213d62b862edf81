"""Frames on the GPU: the kernels' tests, and pixels in, pixels out through a network that gives back its input."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from dni_deploy.imaging import frames
from dni_deploy.signature import Signature
from tests.engines.cuda.test_frame_kernels import (
    DTYPES,
    convert,
    make_frame,
    test_all_levels_there_and_back,
    test_any_grid_gives_the_same_pixels,
    test_frame_is_that_of_the_reference,
    test_frame_of_a_residual_network,
    test_input_is_that_of_the_reference,
    test_values_that_are_not_finite_are_counted_inside_of_the_frame,
)
from tests.support.needs_gpu import need_gpu

__all__ = [
    "convert",
    "test_all_levels_there_and_back",
    "test_any_grid_gives_the_same_pixels",
    "test_frame_is_that_of_the_reference",
    "test_frame_of_a_residual_network",
    "test_input_is_that_of_the_reference",
    "test_values_that_are_not_finite_are_counted_inside_of_the_frame",
]


SIGNATURE = Signature(multiple=4, low=-1.0)


@pytest.fixture(autouse=True)
def on_the_device(gpu: Any) -> None:
    need_gpu()


class IdentityNetwork:
    """Its output is its input, where that is."""

    def __init__(self, device: Any) -> None:
        from engines.cuda.memory import GrowingBuffer

        self.stream, self.buffer, self.lock = device.create_stream(), GrowingBuffer(device), threading.Lock()
        self.shape: tuple[int, ...] = ()

    @contextmanager
    def locked(self) -> Iterator[IdentityNetwork]:
        with self.lock:
            yield self

    def prepare_input(self, shape: tuple[int, ...]) -> int:
        self.shape = shape
        return self.buffer.get_buffer(4 * int(np.prod(shape))).pointer

    def enqueue(self) -> None:
        pass

    def get_output(self) -> tuple[tuple[int, ...], int]:
        return self.shape, self.buffer.get_buffer(0).pointer


class Renderer:
    """A renderer, for any thread."""

    def __init__(self, device: Any) -> None:
        from engines.cuda.frame_buffers import FrameRenderer

        self.device, self.renderer = device, FrameRenderer(device)

    def render(self, frame: NDArray[Any], network: IdentityNetwork) -> NDArray[Any]:
        with self.device:
            rendered: NDArray[Any] = self.renderer.render(frame, SIGNATURE, network.locked)
        return rendered


@pytest.fixture
def renderer(gpu: Any) -> Iterator[Renderer]:
    from engines.cuda.device import Device

    device = Device.open(0)
    with device:
        renderer = Renderer(device)
    yield renderer
    with device:
        renderer.renderer.close()
    device.close()


@contextmanager
def network(renderer: Renderer) -> Iterator[IdentityNetwork]:
    with renderer.device:
        made = IdentityNetwork(renderer.device)
    yield made
    with renderer.device:
        made.buffer.free()
        made.stream = None


@pytest.mark.parametrize("dtype", DTYPES)
def test_pixels_in_pixels_out(renderer: Renderer, dtype: Any) -> None:
    with network(renderer) as identity:
        for size in ((1080, 1920), (1, 1), (67, 71)):
            frame = make_frame(size, dtype)
            expected = frames.from_network(frames.to_network(frame, SIGNATURE), frame, SIGNATURE)
            np.testing.assert_array_equal(renderer.render(frame, identity), expected)


def test_an_output_that_is_not_finite(renderer: Renderer) -> None:
    with network(renderer) as identity, pytest.raises(EngineError, match="holds 3072 values of 3072"):
        renderer.render(np.full((32, 32, 3), np.nan, np.float32), identity)


def test_results_come_back_to_the_pool_and_outlive_the_engine(renderer: Renderer) -> None:
    frame = make_frame((270, 480), np.uint8)
    with network(renderer) as identity:
        first = renderer.render(frame, identity)
        address = first.ctypes.data
        del first
        gc.collect()
        second = renderer.render(frame, identity)
        assert second.ctypes.data == address
    with renderer.device:
        renderer.renderer.close()
    np.testing.assert_array_equal(second, frame)


def test_frames_of_several_threads(renderer: Renderer) -> None:
    inputs = [make_frame((270 + seed % 3, 480), DTYPES[seed % 3], seed) for seed in range(48)]
    expected = [frames.from_network(frames.to_network(frame, SIGNATURE), frame, SIGNATURE) for frame in inputs]
    with network(renderer) as identity:
        renderer.render(make_frame((300, 480), np.uint8), identity)  # the largest first: memory grows under no frame
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda frame: renderer.render(frame, identity), inputs))
    for got, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)

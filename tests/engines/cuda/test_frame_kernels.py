"""Frame kernels: the very source that a GPU runs, pixel for pixel the reference in dni_deploy/imaging/frames.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from dni_deploy.imaging import frames
from dni_deploy.signature import Signature
from tests.engines.cuda import host_compiler

DTYPES = (np.uint8, np.uint16, np.float32)
SIZES = ((1, 1), (1, 2), (2, 1), (3, 5), (5, 3), (7, 9), (8, 8), (2, 40), (33, 6), (67, 71))
"""Height and width; with a multiple of 8 some are too small to mirror, on one side or on both."""
RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.25, 0.7))


@pytest.fixture
def convert(gpu: Any) -> Iterator[Any]:
    """Runs the kernels on arrays of the host."""
    from engines.cuda.device import Device
    from engines.cuda.frame_kernels import FrameKernels

    device = Device.open()
    with device:
        converter = Converter(device, FrameKernels(device))
        yield converter
        del converter
    device.close()


class Converter:
    def __init__(self, device: Any, kernels: Any) -> None:
        self.device, self.kernels = device, kernels

    @contextmanager
    def upload(self, *arrays: NDArray[Any]) -> Iterator[Any]:
        """Buffers with the arrays' content, a stream, and nothing left at the end."""
        from engines.cuda.memory import Buffer

        with ExitStack() as owned:
            buffers = []
            for array in arrays:
                buffers.append(Buffer(self.device, array.nbytes))
                owned.callback(buffers[-1].free)
                buffers[-1].upload(np.ascontiguousarray(array))
            yield (*buffers, self.device.create_stream())

    def to_input(self, frame: NDArray[Any], signature: Signature) -> NDArray[np.float32]:
        padded = frames.padded_size(*frame.shape[:2], signature)
        shape = (3, 1, *padded) if signature.input_channels == 1 else (1, 3, *padded)
        result = np.full(shape, np.nan, np.float32)
        with self.upload(frame, result) as (source, target, stream):
            size = frame.shape[:2]
            self.kernels.enqueue_frame_to_input(source.pointer, size, frame.dtype, signature, target.pointer, stream)
            stream.synchronize()
            target.download(result)
        return result

    def to_frame(self, y: NDArray[np.float32], frame: NDArray[Any], signature: Signature) -> tuple[NDArray[Any], int]:
        """The new frame, and how many of its values are not finite beside the 5 that were counted before."""
        result = np.full((signature.scale * frame.shape[0], signature.scale * frame.shape[1], 3), 77, frame.dtype)
        counter = np.array([5], np.uint32)
        with self.upload(y, frame, result, counter) as (output, source, target, count, stream):
            self.kernels.enqueue_output_to_frame(
                output.pointer, source.pointer, frame.shape[:2], frame.dtype, signature, target.pointer, count.pointer, stream
            )
            stream.synchronize()
            target.download(result)
            count.download(counter)
        return result, int(counter[0]) - 5


def make_frame(size: tuple[int, int], dtype: Any, seed: int = 0) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    if dtype == np.float32:
        return random.uniform(-0.5, 1.5, (*size, 3)).astype(np.float32)
    return random.integers(0, np.iinfo(dtype).max, (*size, 3), dtype, endpoint=True)


def make_output(frame: NDArray[Any], signature: Signature, seed: int = 0) -> NDArray[np.float32]:
    """Values within the range and far outside of it, and those beside which rounding is decided."""
    random = np.random.default_rng(seed)
    height, width = (signature.scale * side for side in frames.padded_size(*frame.shape[:2], signature))
    channels = (3, 1) if signature.output_channels == 1 else (1, 3)
    white = frames.WHITE_LEVELS[frame.dtype]
    halves = random.integers(-3, int(white) + 3, (*channels, height, width)) + random.choice([0.5, 0.0, 0.25], (height, width))
    y = (halves / white * (signature.high - signature.low) + signature.low).astype(np.float32)
    far = random.random(y.shape) < 0.1
    y[far] *= np.float32(1e30)
    beside = random.random(y.shape) < 0.3
    y[beside] = np.nextafter(y[beside], np.float32(0))
    return y


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_input_is_that_of_the_reference(convert: Any, dtype: Any, low: float, high: float, channels: int) -> None:
    for size, multiple in itertools.product(SIZES, (1, 4, 8)):
        signature = Signature(channels, channels, multiple=multiple, low=low, high=high)
        frame = make_frame(size, dtype)
        expected = frames.to_network(frame, signature)
        got = convert.to_input(frame, signature)
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32), err_msg=f"{size} {multiple}")


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_frame_is_that_of_the_reference(convert: Any, dtype: Any, low: float, high: float, scale: int) -> None:
    for size, multiple, channels in itertools.product(SIZES, (1, 4, 8), (3, 1)):
        signature = Signature(channels, channels, scale, multiple, low, high)
        frame = make_frame(size, dtype)
        y = make_output(frame, signature)
        with np.errstate(over="ignore"):
            expected = frames.from_network(y, frame, signature)
        got, not_finite = convert.to_frame(y, frame, signature)
        assert not_finite == 0
        np.testing.assert_array_equal(got, expected, err_msg=f"{size} {multiple} {channels}")


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_frame_of_a_residual_network(convert: Any, dtype: Any, low: float, high: float, channels: int) -> None:
    for size, multiple in itertools.product(SIZES, (1, 4, 8)):
        signature = Signature(channels, channels, 1, multiple, low, high, residual=True)
        frame = make_frame(size, dtype)
        y = make_output(frame, signature)
        with np.errstate(over="ignore"):
            expected = frames.from_network(y, frame, signature)
        got, not_finite = convert.to_frame(y, frame, signature)
        assert not_finite == 0
        np.testing.assert_array_equal(got, expected, err_msg=f"{size} {multiple}")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_all_levels_there_and_back(convert: Any, dtype: Any) -> None:
    levels = np.resize(np.arange(np.iinfo(dtype).max + 1), (256, 257, 3)).astype(dtype)
    for low, high in RANGES:
        signature = Signature(low=low, high=high)
        x = convert.to_input(levels, signature)
        np.testing.assert_array_equal(x, frames.to_network(levels, signature))
        np.testing.assert_array_equal(convert.to_frame(x, levels, signature)[0], frames.from_network(x, levels, signature))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_are_not_finite_are_counted_inside_of_the_frame(convert: Any, dtype: Any, residual: bool) -> None:
    signature = Signature(multiple=8, residual=residual)
    frame = make_frame((9, 10), dtype)
    y = np.zeros((1, 3, 16, 16), np.float32)
    y[0, 0, 9:] = np.nan  # below and beside the frame, which is cropped
    y[0, 1, :, 10:] = np.inf
    assert convert.to_frame(y, frame, signature)[1] == 0
    y[0, 0, 8, 9], y[0, 1, 0, 0], y[0, 2, 3, 2:7] = np.nan, np.inf, -np.inf
    y[0, 2, 4, 2] = np.uint32([0xFF800001]).view(np.float32)[0]  # a NaN that signals
    y[0, 2, 5, 2] = np.finfo(np.float32).max
    with pytest.raises(EngineError, match="holds 8 values of 270"):
        frames.from_network(y, frame, signature)
    assert convert.to_frame(y, frame, signature)[1] == 8


@pytest.mark.parametrize(("grid", "block"), [(1, 256), (3, 32), (500, 1)])
def test_any_grid_gives_the_same_pixels(convert: Any, grid: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.cuda import frame_kernels

    signature = Signature(multiple=8, low=-1.0)
    frame = make_frame((67, 71), np.uint8)
    x, y = frames.to_network(frame, signature), make_output(frame, signature)

    def launch(function: Any, rows: int, argument: bytes, stream: Any) -> None:
        function.prepared_async_call((grid, 1), (block, 1, 1), stream, np.void(argument))

    monkeypatch.setattr(frame_kernels, "_launch", launch)
    np.testing.assert_array_equal(convert.to_input(frame, signature), x)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(convert.to_frame(y, frame, signature)[0], frames.from_network(y, frame, signature))


def test_structs_are_those_of_the_source(gpu: Any) -> None:
    from engines.cuda import frame_kernels

    names = host_compiler.kernels("frame.cu")
    assert len(names) == 6
    for name in names:
        struct = frame_kernels.FRAME_TO_INPUT if name.startswith("frame_to") else frame_kernels.OUTPUT_TO_FRAME
        assert host_compiler.build().host_argument_bytes(name.encode()) == struct.size

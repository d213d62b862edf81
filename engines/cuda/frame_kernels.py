"""The kernels of frame.cu: frames into the input of a network and its output into frames, queued on a stream."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from dni_deploy.errors import EngineError
from dni_deploy.imaging import frames
from dni_deploy.imaging.frames import WHITE_LEVELS
from dni_deploy.signature import Signature
from engines.cuda import backend as cuda
from engines.cuda.device import Device
from engines.cuda.kernels import THREADS_PER_BLOCK, Kernels
from engines.cuda.machine_code import FRAME_SOURCE

FRAME_TO_INPUT, OUTPUT_TO_FRAME = struct.Struct("=2Q4I3fI"), struct.Struct("=4Q4I3fI")
"""The kernels' only arguments; see frame.cu."""


class FrameKernels:
    """Converts frames on the device, pixel for pixel as `dni_deploy.imaging.frames` does on the host. It owns no memory.

    Thread safety: any thread may use it, on any stream; the caller holds the device.
    """

    def __init__(self, device: Device) -> None:
        """Loads the kernels.

        Raises:
            UnavailableError: The shipped machine code does not fit, and there is no CUDA compiler.
            EngineError: The kernels do not compile.
        """
        kernels = Kernels(device, FRAME_SOURCE)

        def load(name: str, argument: struct.Struct) -> dict[np.dtype[Any], Any]:
            kind = np.dtype(f"V{argument.size}")
            return {dtype: kernels.load_function(f"{name}_{dtype.kind}{8 * dtype.itemsize}", kind) for dtype in WHITE_LEVELS}

        self._to_input = load("frame_to_input", FRAME_TO_INPUT)
        self._to_frame = load("output_to_frame", OUTPUT_TO_FRAME)

    def enqueue_frame_to_input(
        self,
        frame: int,
        size: tuple[int, int],
        dtype: np.dtype[Any],
        signature: Signature,
        network_input: int,
        stream: cuda.Stream,
    ) -> None:
        """Queues what `frames.to_network` computes.

        Args:
            frame: Device address of the frame, (H, W, 3).
            size: Its height and width, in pixels.
            dtype: Its dtype, one of WHITE_LEVELS.
            signature: Of the network.
            network_input: Device address of the input, float32 (3, H', W').
            stream: The stream.

        Raises:
            EngineError: The driver refuses the launch.
        """
        padded = frames.padded_size(*size, signature)
        span, rescale = signature.high - signature.low, (signature.low, signature.high) != (0.0, 1.0)
        argument = FRAME_TO_INPUT.pack(frame, network_input, *size, *padded, WHITE_LEVELS[dtype], span, signature.low, rescale)
        _launch(self._to_input[dtype], padded[0], argument, stream)

    def enqueue_output_to_frame(
        self,
        network_output: int,
        source: int,
        size: tuple[int, int],
        dtype: np.dtype[Any],
        signature: Signature,
        frame: int,
        not_finite: int,
        stream: cuda.Stream,
    ) -> None:
        """Queues what `frames.from_network` computes.

        Args:
            network_output: Device address of the output, float32 (3, scale * H', scale * W').
            source: Device address of the frame that the network got, (H, W, 3).
            size: Its height and width, in pixels.
            dtype: Its dtype, one of WHITE_LEVELS.
            signature: Of the network.
            frame: Device address of the new frame, (scale * H, scale * W, 3).
            not_finite: Device address of a uint32, to which the number of values that are NaN or infinite is added.
            stream: The stream.

        Raises:
            EngineError: The driver refuses the launch.
        """
        height, width = (signature.scale * side for side in size)
        output_size = (signature.scale * side for side in frames.padded_size(*size, signature))
        factor = float(frames.output_factor(signature, dtype))
        argument = OUTPUT_TO_FRAME.pack(
            network_output, source, frame, not_finite,
            height, width, *output_size, signature.low, factor, WHITE_LEVELS[dtype], signature.residual,
        )  # fmt: skip
        _launch(self._to_frame[dtype], height, argument, stream)


def _launch(function: Any, rows: int, argument: bytes, stream: cuda.Stream) -> None:
    """Queues a kernel with one block for each row."""
    try:
        function.prepared_async_call((rows, 1), THREADS_PER_BLOCK, stream, np.void(argument))
    except cuda.Error as error:
        raise EngineError(f"The conversion of a frame could not be queued: {error}.") from error

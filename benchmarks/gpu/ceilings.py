"""The limits of this GPU, measured in the same run: a copy in its memory and a large matrix product."""

from __future__ import annotations

import importlib.util
import math

import numpy as np

from benchmarks.gpu.clock import Clock
from engines.cuda import backend as cuda
from engines.cuda.device import Device
from engines.cuda.memory import Buffer

COPY_BYTES = 1 << 30
MATRIX_SIDE = 8192


class DeviceCopy:
    """Copies from one half of device memory that holds random numbers to another; `run` queues one. Free it explicitly."""

    def __init__(self, device: Device, nbytes: int, stream: cuda.Stream, seed: int = 0) -> None:
        self.nbytes, self._stream = nbytes, stream
        self._source, self._target = Buffer(device, nbytes), Buffer(device, nbytes)
        piece = np.random.default_rng(seed).integers(0, 256, min(nbytes, 1 << 24), np.uint8)
        for start in range(0, nbytes, piece.nbytes):
            self._source.upload(piece[: nbytes - start], offset=start)

    @property
    def bytes_moved(self) -> int:
        """Bytes read plus bytes written."""
        return 2 * self.nbytes

    def run(self) -> None:
        cuda.memcpy_dtod_async(self._target.pointer, self._source.pointer, self.nbytes, self._stream)

    def free(self) -> None:
        self._source.free()
        self._target.free()


def measure_copy_rate(device: Device, clock: Clock, nbytes: int = COPY_BYTES, rounds: int = 15) -> float:
    """Measures the bytes per second of a large copy, read plus written, a median. The caller holds the device."""
    stream = device.create_stream()
    copy = DeviceCopy(device, nbytes, stream)
    seconds = []
    for _ in range(rounds + 2):
        clock.reset()
        first = clock.mark(stream.handle)
        for _ in range(4):
            copy.run()
        second = clock.mark(stream.handle)
        clock.wait(stream.handle)
        seconds.append(clock.between(first, second) / 4)
    copy.free()
    return copy.bytes_moved / max(float(np.median(seconds[2:])), 1e-9)


def measure_matrix_rates(side: int = MATRIX_SIDE, rounds: int = 10) -> dict[str, float]:
    """Measures the operations per second of a large product in PyTorch by precision; {} without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    from benchmarks.gpu.torch_peers import TORCH_DTYPES, choose_arithmetic

    if not torch.cuda.is_available():
        return {}
    rates = {}
    for name, dtype in TORCH_DTYPES.items():
        choose_arithmetic(name)
        left, right = (torch.randn(side, side, device="cuda").to(dtype) for _ in range(2))
        seconds = []
        for _ in range(rounds + 2):
            first, second = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            left @ right
            second.record()
            second.synchronize()
            seconds.append(first.elapsed_time(second) / 1e3)
        rates[name] = 2 * math.pow(side, 3) / float(np.median(seconds[2:]))
    return rates

"""Arena: the live weights of one slot, one flat float32 array that a live session reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.onnxruntime_cpu.layout import Layout

CACHE_LINE_BYTES = 64
"""Bytes of a cache line, and of an AVX-512 register: loads across lines cost twice."""


def allocate_aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Zeros, float32, beginning on a cache line; every row too, where the last dimension is a multiple of 16."""
    size = int(np.prod(shape)) * 4
    memory = np.zeros(size + CACHE_LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE_BYTES
    return memory[start : start + size].view(np.float32).reshape(shape)


class HostWeightBuffer:
    """One flat array and a view of it for each optimized weight, by name. It owns the memory."""

    def __init__(self, layout: Layout) -> None:
        self.flat = allocate_aligned((layout.size,))
        self.views = {slot.name: self.flat[slot.start : slot.stop].reshape(slot.shape) for slot in layout.spans}

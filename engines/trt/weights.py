"""Weights: where one slot's blended weights lie, as a refitter asks for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.cuda.blender import WeightBuffer
from engines.cuda.device import Device
from engines.cuda.layout import DeviceLayout
from engines.cuda.memory import Staging


class RefitWeights:
    """Names, types, counts and device addresses of the weights of a live arena; and, for TensorRT 8.6, their values on the host.

    The arena is the slot's, and the slot frees it. The caller holds the device.
    """

    def __init__(self, device: Device, layout: DeviceLayout, weight_buffer: WeightBuffer) -> None:
        self._layout, self._weight_buffer = layout, weight_buffer
        self._staging = Staging(device)
        self.names = tuple(layout.names)

    def dtype_of(self, name: str) -> np.dtype[Any]:
        return np.dtype(self._layout.dtype_of(name))

    def count_of(self, name: str) -> int:
        return int(self._layout.count_of(name))

    def pointer_of(self, name: str) -> int:
        return int(self._weight_buffer.pointer_of(name))

    def download_to_host(self, stream: Any) -> dict[str, NDArray[Any]]:
        """Every weight, flat, after what is queued on the stream: views of page-locked memory, good until the next call."""
        arena = self._staging.get_array((self._layout.nbytes,), np.uint8)
        self._weight_buffer.buffer.download(arena, stream)
        stream.synchronize()
        return {name: self._view_weight(arena, name) for name in self.names}

    def _view_weight(self, host_copy: NDArray[np.uint8], name: str) -> NDArray[Any]:
        start, dtype = self._layout.offset_of(name), self.dtype_of(name)
        return host_copy[start : start + self.count_of(name) * dtype.itemsize].view(dtype)

    def free(self) -> None:
        """Free the host memory. Calling it again does nothing."""
        self._staging.free()

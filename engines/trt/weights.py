"""Weights: where one slot's blended weights lie, as a refitter asks for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.cuda.blender import Live
from engines.cuda.device import Device
from engines.cuda.layout import DeviceLayout
from engines.cuda.memory import Staging


class Source:
    """Names, types, counts and device addresses of the weights of a live arena; and, for TensorRT 8.6, their values on the host.

    The arena is the slot's, and the slot frees it. The caller holds the device.
    """

    def __init__(self, device: Device, layout: DeviceLayout, live: Live) -> None:
        self._layout, self._live = layout, live
        self._staging = Staging(device)
        self.names = tuple(layout.names)

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(self._layout.dtype(name))

    def count(self, name: str) -> int:
        return int(self._layout.count(name))

    def pointer(self, name: str) -> int:
        return int(self._live.pointer(name))

    def on_host(self, stream: Any) -> dict[str, NDArray[Any]]:
        """Every weight, flat, after what is queued on the stream: views of page-locked memory, good until the next call."""
        arena = self._staging.array((self._layout.nbytes,), np.uint8)
        self._live.buffer.download(arena, stream)
        stream.synchronize()
        return {name: self._view(arena, name) for name in self.names}

    def _view(self, arena: NDArray[np.uint8], name: str) -> NDArray[Any]:
        start, dtype = self._layout.offset(name), self.dtype(name)
        return arena[start : start + self.count(name) * dtype.itemsize].view(dtype)

    def free(self) -> None:
        """Free the host memory. Calling it again does nothing."""
        self._staging.free()

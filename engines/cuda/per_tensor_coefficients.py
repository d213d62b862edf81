"""By row: shares for each of the family's tensors, as the kernels by row read them.

Which row a number takes never changes, so that is uploaded once with the members (layout.py). Per change goes the table of shares
alone, from memory that is not page-locked: CUDA has read that when the call returns, so nothing on the host has to stay as it is.
On the device the table belongs to the slot, and its copy is queued on the slot's stream: behind the kernels of the last
change, which read it, and before those of this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, escape_name
from engines.cuda import cuda_graph
from engines.cuda.device import Device
from engines.cuda.kernels import MAX_MEMBERS
from engines.cuda.layout import DeviceLayout
from engines.cuda.memory import Buffer


class CoefficientTable:
    """One slot's shares on the device: first those of the BatchNorms' tensors, float64, then those of the weights', float32."""

    def __init__(self, device: Device, layout: DeviceLayout) -> None:
        # As large as it can ever be: 128 bytes for a tensor, which in the arena takes 256 or more.
        rows = 8 * len(layout.statistics_tensors()) + 4 * len(layout.source_tensors())
        self._buffer = Buffer(device, MAX_MEMBERS * rows)
        self._uploaded_data: bytes | None = None

    def upload(self, data: bytes, stream: cuda.Stream) -> int:
        """Queue the upload, unless this is what it holds, and return its address.

        Raises EngineError while this thread captures a CUDA graph: the graph would read this memory again, at every launch.
        """
        if data != self._uploaded_data:
            if cuda_graph.is_capturing():
                raise EngineError("Shares by weight cannot be new within a CUDA graph: blend once with them before.")
            self._uploaded_data = None
            self._buffer.upload(np.frombuffer(data, np.uint8), stream)
            self._uploaded_data = data
        return self._buffer.pointer

    def free(self) -> None:
        """Nothing queued may still use it. Calling it again does nothing."""
        self._buffer.free()


class TensorOffsets:
    """Where, among shares float64 (W, N), the rows of a table are. names: the W tensors, as bundle.weight_names."""

    def __init__(self, layout: DeviceLayout, names: Sequence[str]) -> None:
        self.names = tuple(names)
        places = {name: place for place, name in enumerate(names)}
        self.weights = np.array([places.get(name, 0) for name in layout.source_tensors()], np.intp)
        self.statistics = np.array([places[name] for name in layout.statistics_tensors()], np.intp)
        self.channels = self.statistics[layout.build_statistics_index()]
        """(5, channels): of each channel's five statistics."""

    def pack_table(self, coefficients: NDArray[np.float64], members: NDArray[np.intp]) -> tuple[bytes, int]:
        """A table of the members that are used, and where in it the float32 rows begin."""
        chosen = coefficients[:, members]
        first = chosen[self.statistics].tobytes()
        return first + chosen[self.weights].astype(np.float32).tobytes(), len(first)

    def check_coefficients(self, coefficients: NDArray[np.float64], members: int) -> None:
        """Raises EngineError for another number of rows or members, and for a row without shares."""
        if coefficients.shape != (len(self.names), members):
            raise EngineError(
                f"Shares of shape {coefficients.shape} for {len(self.names)} weights and {members} members, which takes "
                f"({members},) or ({len(self.names)}, {members})."
            )
        empty = np.flatnonzero(~coefficients.any(axis=1))
        if len(empty):
            raise EngineError(f"The shares of the weight {escape_name(self.names[empty[0]])!r} are all 0.")

    def blend_variance(self, coefficients: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Per channel, by its own row: variance (N, channels) -> (channels,). A member whose share is 0 is not looked at."""
        each = coefficients[self.channels[0]].T
        products = np.multiply(each, variance, where=each != 0, out=np.zeros_like(variance))
        blended: NDArray[np.float64] = products.sum(axis=0)
        return blended

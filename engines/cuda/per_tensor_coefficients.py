"""Per-tensor coefficients on the device, as the kernels read them.

Which row a number takes never changes, so that is uploaded once with the members (layout.py). A change uploads the table of
coefficients alone, from memory that is not page-locked: CUDA has read it when the call returns, so nothing on the host has to
stay as it is. On the device the table belongs to the slot, and its copy is queued on the slot's stream: behind the kernels of
the last change, which read it, and before those of this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, escape_name
from engines.cuda import backend as cuda
from engines.cuda import cuda_graph
from engines.cuda.device import Device
from engines.cuda.kernels import MAX_MEMBERS
from engines.cuda.layout import DeviceLayout
from engines.cuda.memory import Buffer


class CoefficientTable:
    """One slot's coefficients on the device: float64 rows of the BatchNorms' tensors, then float32 rows of the weights'.

    Thread safety: as the slot's stream orders it; the caller holds the device.
    """

    def __init__(self, device: Device, layout: DeviceLayout) -> None:
        """Allocates the table at its largest size: 128 bytes for a tensor, which takes 256 or more in the weight buffer.

        Raises:
            LimitError: There is no room.
        """
        rows = 8 * len(layout.statistics_tensors()) + 4 * len(layout.source_tensors())
        self._buffer = Buffer(device, MAX_MEMBERS * rows)
        self._uploaded_data: bytes | None = None

    def upload(self, data: bytes, stream: cuda.Stream) -> int:
        """Queues the upload of a packed table, unless the device holds it already.

        Args:
            data: What `TensorOffsets.pack_table` gave; read before this returns.
            stream: The slot's stream.

        Returns:
            The table's device address.

        Raises:
            EngineError: This thread captures a CUDA graph, which would read this memory again at every launch.
        """
        if data != self._uploaded_data:
            if cuda_graph.is_capturing():
                raise EngineError("Shares by weight cannot be new within a CUDA graph: blend once with them before.")
            self._uploaded_data = None
            self._buffer.upload(np.frombuffer(data, np.uint8), stream)
            self._uploaded_data = data
        return self._buffer.pointer

    def free(self) -> None:
        """Frees the table. Nothing queued may still use it. Calling it again does nothing."""
        self._buffer.free()


class TensorOffsets:
    """Row offsets of a table of per-tensor coefficients.

    Attributes:
        names: The W tensors, in the order of `Bundle.weight_names`.
        weights: int (tensors,): the row of each of the layout's source tensors.
        statistics: int (tensors,): the row of each of the BatchNorms' tensors.
        channels: int (5, channels): the rows of each channel's five statistics.
    """

    def __init__(self, layout: DeviceLayout, names: Sequence[str]) -> None:
        self.names = tuple(names)
        rows = {name: row for row, name in enumerate(names)}
        self.weights = np.array([rows.get(name, 0) for name in layout.source_tensors()], np.intp)
        self.statistics = np.array([rows[name] for name in layout.statistics_tensors()], np.intp)
        self.channels = self.statistics[layout.build_statistics_index()]

    def pack_table(self, coefficients: NDArray[np.float64], members: NDArray[np.intp]) -> tuple[bytes, int]:
        """Packs the coefficients of the members that are used.

        Args:
            coefficients: float64 (W, N).
            members: Indices of the members that are used.

        Returns:
            The table, and the offset in bytes at which its float32 rows begin.
        """
        used = coefficients[:, members]
        statistics = used[self.statistics].tobytes()
        return statistics + used[self.weights].astype(np.float32).tobytes(), len(statistics)

    def check_coefficients(self, coefficients: NDArray[np.float64], members: int) -> None:
        """Checks coefficients, which should be float64 (W, N).

        Args:
            coefficients: The coefficients.
            members: Number of members, N.

        Raises:
            EngineError: Another number of rows or members, or a row that is all 0.
        """
        if coefficients.shape != (len(self.names), members):
            raise EngineError(
                f"Shares of shape {coefficients.shape} for {len(self.names)} weights and {members} members, which takes "
                f"({members},) or ({len(self.names)}, {members})."
            )
        empty = np.flatnonzero(~coefficients.any(axis=1))
        if len(empty):
            raise EngineError(f"The shares of the weight {escape_name(self.names[empty[0]])!r} are all 0.")

    def blend_variance(self, coefficients: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Blends variances, each channel by its own row; a member whose coefficient is 0 is not read.

        Args:
            coefficients: float64 (W, N).
            variance: float64 (N, channels).

        Returns:
            float64 (channels,).
        """
        per_channel = coefficients[self.channels[0]].T
        products = np.multiply(per_channel, variance, where=per_channel != 0, out=np.zeros_like(variance))
        blended: NDArray[np.float64] = products.sum(axis=0)
        return blended

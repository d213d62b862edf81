"""Blends a family on the device, always from the original members, into a slot's weight buffer."""

from __future__ import annotations

import struct
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from engines.cuda import backend as cuda
from engines.cuda.device import Device
from engines.cuda.kernels import (
    ARGUMENT_HEAD,
    ARGUMENT_TAIL,
    BLEND_ARGUMENTS,
    FOLD_ARGUMENTS,
    MAX_MEMBERS,
    PER_TENSOR_ARGUMENT_HEAD,
    PER_TENSOR_ARGUMENTS,
    THREADS_PER_BLOCK,
    WEIGHT_ALIGNMENT_FLOATS,
    Kernels,
    compute_grid,
    compute_tile_size,
    kernel_name,
)
from engines.cuda.layout import DeviceLayout, Region
from engines.cuda.members import DeviceMembers
from engines.cuda.memory import Buffer
from engines.cuda.per_tensor_coefficients import CoefficientTable
from engines.interface import check_coefficient_count, single_row_or_none


class WeightBuffer:
    """One slot's blended weights in device memory.

    Attributes:
        layout: Where each weight is.
        buffer: The weights; this object owns it.
        coefficient_table: The coefficients on the device, where weights have their own; this object owns it.

    Thread safety: as the slot's stream orders it; the caller holds the device.
    """

    def __init__(self, device: Device, layout: DeviceLayout) -> None:
        """Allocates the memory, which is not cleared.

        Raises:
            LimitError: There is no room.
        """
        self.layout = layout
        self.buffer = Buffer(device, layout.nbytes)
        try:
            self.coefficient_table = CoefficientTable(device, layout)
        except BaseException:
            self.buffer.free()
            raise

    def pointer_of(self, name: str) -> int:
        """Returns the device address of a weight."""
        return self.buffer.pointer + self.layout.offset_of(name)

    def free(self) -> None:
        """Frees the memory. Nothing queued may still use it. Calling it again does nothing."""
        self.buffer.free()
        self.coefficient_table.free()


class _KernelLaunch:
    """What a region's kernels are launched with. Only addresses and coefficients change from call to call."""

    def __init__(
        self, kernels: Kernels, members: DeviceMembers, region: Region, dtype: np.dtype[Any], pointers: list[int]
    ) -> None:
        scaled, self.reads_statistics = region.kind == "fold", region.kind == "knots"
        self.offset, self.count, self.channel_table = region.offset, region.count, members.channel_tables.get(region, 0)
        self.row_index = members.row_indices[region]
        self.lines_per_tensor = np.bincount(
            members.layout.build_row_index(region), minlength=len(members.tensor_offsets.weights)
        )
        self.addresses = _to_address_bytes(pointers)
        self.bytes_per_member = region.count * dtype.itemsize
        self.other_bytes = region.count * region.dtype.itemsize + (region.count // 8 if scaled else 0)
        # By the number of members that are read, from 1; of calibration points, too, at most as many are not 0.
        counts = range(1, members.count + 1)
        self.functions = [
            None,
            *(kernels.load_function(kernel_name(dtype, region.dtype, n, scaled=scaled), BLEND_ARGUMENTS) for n in counts),
        ]
        self.grids = [None, *(compute_grid(region.count, compute_tile_size(dtype, n, scaled=scaled)) for n in counts)]
        per_tensor = [kernel_name(dtype, region.dtype, n, scaled=scaled, per_tensor=True) for n in counts]
        self.per_tensor_functions = [None, *(kernels.load_function(name, PER_TENSOR_ARGUMENTS) for name in per_tensor)]
        self.per_tensor_grids = [
            None,
            *(compute_grid(region.count, compute_tile_size(dtype, n, scaled=scaled, per_tensor=True)) for n in counts),
        ]


def _to_address_bytes(pointers: list[int]) -> list[bytes]:
    return [pointer.to_bytes(8, sys.byteorder) for pointer in pointers]


def _pack_member_addresses(addresses: list[bytes], used: list[int]) -> bytes:
    """Packs the addresses of the members that are read into the space for all of them."""
    return b"".join([addresses[index] for index in used]).ljust(8 * MAX_MEMBERS, b"\0")


def _pack_float32(coefficients: list[float]) -> bytes:
    """Packs coefficients as float32 into the space for those of all members."""
    return struct.pack(f"={len(coefficients)}f", *coefficients).ljust(4 * MAX_MEMBERS, b"\0")


class DeviceBlender:
    """Blends members into weight buffers of the same layout. It owns no memory.

    Thread safety: any thread may use it, on any stream; the caller holds the device.
    """

    def __init__(self, device: Device, members: DeviceMembers) -> None:
        """Loads the kernels.

        Args:
            device: The device of the members.
            members: The members, which must outlive this.

        Raises:
            UnavailableError: The shipped machine code does not fit, and there is no CUDA compiler.
            EngineError: The kernels do not compile.
        """
        kernels = Kernels(device)
        layout = members.layout
        self._members = members
        self._scale_offset = layout.scale_offset
        self._launches = [_KernelLaunch(kernels, members, *region) for region in members.regions]
        self._fold = kernels.load_function("fold", FOLD_ARGUMENTS) if layout.channels else None
        self._fold_per_tensor = kernels.load_function("fold_by_row", PER_TENSOR_ARGUMENTS) if layout.channels else None
        self._fold_grid = compute_grid(layout.channels, THREADS_PER_BLOCK[0])
        self._statistics_addresses = _to_address_bytes(members.statistics_pointers)
        # A member whose own variance is not positive is checked at every alpha.
        self._has_nonpositive_variance = members.variance is not None and not bool((members.variance > 0).all())

    def blend(self, coefficients: NDArray[np.float64], weight_buffer: WeightBuffer, stream: cuda.Stream) -> None:
        """Validates coefficients and queues the blend: at most one kernel per region and one for all BatchNorms.

        It allocates nothing and waits for nothing. A member whose coefficient is 0 is not read; a single coefficient of 1
        copies the member's numbers as they are.

        Args:
            coefficients: float64 (N,), or (W, N) with a row per tensor, in the order of the members' tensors: the same number
                of kernels then, behind one small copy (see per_tensor_coefficients.py). Rows that are all equal count as that
                one row.
            weight_buffer: The slot's buffer to fill.
            stream: The slot's stream.

        Raises:
            CoefficientsError, EngineError: As `validate_coefficients` (nothing was queued then) and `enqueue_blend`.
        """
        self.enqueue_blend(self.validate_coefficients(coefficients), weight_buffer, stream)

    def validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Validates coefficients without touching a slot, the first half of `blend`.

        Args:
            coefficients: float64 (N,) or (W, N).

        Returns:
            The coefficients for `enqueue_blend`: (N,) where all rows are equal.

        Raises:
            CoefficientsError: The calibration does not reach there: rows that differ, coefficients outside 0 to 1.
            EngineError: Another shape, all 0, or a blended variance that is not positive.
        """
        members, calibration = self._members, self._members.calibration
        if coefficients.ndim == 2:
            members.tensor_offsets.check_coefficients(coefficients, members.count)
        row = single_row_or_none(coefficients)
        if row is not None:
            check_coefficient_count(row, members.count)
        coefficients = coefficients if row is None else row
        if calibration is not None:
            calibration.validate_coefficients(coefficients)
        # A convex blend of positive variances is positive; extrapolation can make it negative.
        if members.variance is None or (not self._has_nonpositive_variance and float(coefficients.min()) >= 0.0):
            return coefficients
        if row is None:
            blended = members.tensor_offsets.blend_variance(coefficients, members.variance)
        else:
            weights = row if calibration is None else calibration.interpolation_weights(row)
            used = np.flatnonzero(weights)
            blended = weights[used] @ members.variance[used]
        if not bool((blended > 0).all()):
            raise EngineError("A BatchNorm's blended variance is not positive at this alpha.")
        return coefficients

    def enqueue_blend(self, coefficients: NDArray[np.float64], weight_buffer: WeightBuffer, stream: cuda.Stream) -> None:
        """Queues a blend by validated coefficients, the second half of `blend`.

        Args:
            coefficients: What `validate_coefficients` returned; it is not checked again.
            weight_buffer: The slot's buffer to fill.
            stream: The slot's stream.

        Raises:
            EngineError: The driver refuses a launch; the weight buffer must be blended again then.
        """
        address = weight_buffer.buffer.pointer
        if address == 0:
            raise EngineError("The slot's weights were freed.")
        if coefficients.ndim == 2:
            self._enqueue_per_tensor(coefficients, weight_buffer, stream)
            return
        # Plain bytes and lists: with NumPy's records this would take longer than the kernel of a small network.
        values = coefficients.tolist()
        used = [index for index, share in enumerate(values) if share != 0.0]
        calibration = self._members.calibration
        point_weights = coefficients if calibration is None else calibration.interpolation_weights(coefficients)
        points = used if calibration is None else np.flatnonzero(point_weights).tolist()
        used_values, used_point_weights = [values[index] for index in used], point_weights[points].tolist()
        scale = address + self._scale_offset
        try:
            if self._fold is not None:
                head = ARGUMENT_HEAD.pack(address, self._members.shift_offsets, scale, self._members.layout.channels)
                doubles = struct.pack(f"={len(points)}d", *used_point_weights).ljust(8 * MAX_MEMBERS, b"\0")
                data = np.void(
                    b"".join(
                        (
                            head,
                            _pack_member_addresses(self._statistics_addresses, points),
                            doubles,
                            ARGUMENT_TAIL.pack(len(points), 0),
                        )
                    )
                )
                self._fold.prepared_async_call(self._fold_grid, THREADS_PER_BLOCK, stream, data)
            by_members, by_points = (used, _pack_float32(used_values)), (points, _pack_float32(used_point_weights))
            for launch in self._launches:
                read, singles = by_points if launch.reads_statistics else by_members
                count = len(read)
                head = ARGUMENT_HEAD.pack(address + launch.offset, launch.channel_table, scale, launch.count)
                data = np.void(
                    b"".join((head, _pack_member_addresses(launch.addresses, read), singles, ARGUMENT_TAIL.pack(count, 0)))
                )
                launch.functions[count].prepared_async_call(launch.grids[count], THREADS_PER_BLOCK, stream, data)
        except cuda.Error as error:
            raise EngineError(f"The blend could not be queued: {error}.") from error

    def _enqueue_per_tensor(self, coefficients: NDArray[np.float64], weight_buffer: WeightBuffer, stream: cuda.Stream) -> None:
        members, address = self._members, weight_buffer.buffer.pointer
        columns = np.flatnonzero(coefficients.any(axis=0))
        used, count = columns.tolist(), len(columns)
        data, singles = members.tensor_offsets.pack_table(coefficients, columns)
        scale, tail = address + self._scale_offset, ARGUMENT_TAIL.pack(count, 0)
        try:
            table = weight_buffer.coefficient_table.upload(data, stream)
            if self._fold_per_tensor is not None:
                head = PER_TENSOR_ARGUMENT_HEAD.pack(
                    address, members.shift_offsets, scale, members.layout.channels, members.statistics_index, table
                )
                argument = np.void(b"".join((head, _pack_member_addresses(self._statistics_addresses, used), tail)))
                self._fold_per_tensor.prepared_async_call(self._fold_grid, THREADS_PER_BLOCK, stream, argument)
            for launch in self._launches:
                head = PER_TENSOR_ARGUMENT_HEAD.pack(
                    address + launch.offset, launch.channel_table, scale, launch.count, launch.row_index, table + singles
                )
                argument = np.void(b"".join((head, _pack_member_addresses(launch.addresses, used), tail)))
                launch.per_tensor_functions[count].prepared_async_call(
                    launch.per_tensor_grids[count], THREADS_PER_BLOCK, stream, argument
                )
        except cuda.Error as error:
            raise EngineError(f"The blend could not be queued: {error}.") from error

    def count_bytes_moved(self, coefficients: NDArray[np.float64]) -> int:
        """Counts the bytes that a blend by these coefficients, float64 (N,) or (W, N), reads and writes."""
        if coefficients.ndim == 2 and single_row_or_none(coefficients) is None:
            return self._count_per_tensor_bytes(coefficients)
        coefficients = coefficients if coefficients.ndim == 1 else coefficients[0]
        used = int(np.count_nonzero(coefficients))
        calibration = self._members.calibration
        points = used if calibration is None else int(np.count_nonzero(calibration.interpolation_weights(coefficients)))
        folds = self._members.layout.channels * (points * 40 + 16)
        read = [points if launch.reads_statistics else used for launch in self._launches]
        return folds + sum(
            count * launch.bytes_per_member + launch.other_bytes for count, launch in zip(read, self._launches, strict=True)
        )

    def _count_per_tensor_bytes(self, coefficients: NDArray[np.float64]) -> int:
        offsets, read = self._members.tensor_offsets, (coefficients != 0).sum(axis=1)
        total = int(8 * read[offsets.channels].sum()) + self._members.layout.channels * (16 + 20)
        for launch in self._launches:
            lines = int(launch.lines_per_tensor @ read[offsets.weights])
            total += (
                lines * WEIGHT_ALIGNMENT_FLOATS * launch.bytes_per_member // launch.count
                + launch.other_bytes
                + launch.count // WEIGHT_ALIGNMENT_FLOATS * 4
            )
        return total

"""Blender: computes the blended weights on the device, always from the pristine members, straight into a slot's arena."""

from __future__ import annotations

import struct
import sys
from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
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
    """One slot's blended weights: an arena in the layout, and the shares that it was blended by where weights have their own."""

    def __init__(self, device: Device, layout: DeviceLayout) -> None:
        self.layout = layout
        self.buffer = Buffer(device, layout.nbytes)
        try:
            self.coefficient_table = CoefficientTable(device, layout)
        except BaseException:
            self.buffer.free()
            raise

    def pointer_of(self, name: str) -> int:
        """The weight's address."""
        return self.buffer.pointer + self.layout.offset_of(name)

    def free(self) -> None:
        """Nothing queued may still use it. Calling it again does nothing."""
        self.buffer.free()
        self.coefficient_table.free()


class _KernelLaunch:
    """What a region's kernel is launched with. Only addresses of the arena, members and shares change from call to call."""

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
        # By the number of members that are read, from 1; of knots, too, no more than members are not 0.
        counts = range(1, members.count + 1)
        self.functions = [
            None,
            *(kernels.load_function(kernel_name(dtype, region.dtype, n, scaled=scaled), BLEND_ARGUMENTS) for n in counts),
        ]
        self.grids = [None, *(compute_grid(region.count, compute_tile_size(dtype, n, scaled=scaled)) for n in counts)]
        by_row = [kernel_name(dtype, region.dtype, n, scaled=scaled, per_tensor=True) for n in counts]
        self.per_tensor_functions = [None, *(kernels.load_function(each, PER_TENSOR_ARGUMENTS) for each in by_row)]
        self.per_tensor_grids = [
            None,
            *(compute_grid(region.count, compute_tile_size(dtype, n, scaled=scaled, per_tensor=True)) for n in counts),
        ]


def _to_address_bytes(pointers: list[int]) -> list[bytes]:
    return [pointer.to_bytes(8, sys.byteorder) for pointer in pointers]


def _pack_member_addresses(addresses: list[bytes], used: list[int]) -> bytes:
    """The addresses of the members that are read, in the space for all of them."""
    return b"".join([addresses[index] for index in used]).ljust(8 * MAX_MEMBERS, b"\0")


def _pack_float32(coefficients: list[float]) -> bytes:
    """The shares in float32, in the space for those of all members."""
    return struct.pack(f"={len(coefficients)}f", *coefficients).ljust(4 * MAX_MEMBERS, b"\0")


class DeviceBlender:
    """Blends members into live arenas of the same layout, on whatever stream. It owns no memory, and any thread may use it."""

    def __init__(self, device: Device, members: DeviceMembers) -> None:
        kernels = Kernels(device)
        layout = members.layout
        self._members = members
        self._scale_offset = layout.scale_offset
        self._launches = [_KernelLaunch(kernels, members, *region) for region in members.regions]
        self._fold = kernels.load_function("fold", FOLD_ARGUMENTS) if layout.channels else None
        self._fold_per_tensor = kernels.load_function("fold_by_row", PER_TENSOR_ARGUMENTS) if layout.channels else None
        self._fold_grid = compute_grid(layout.channels, THREADS_PER_BLOCK[0])
        self._statistics_addresses = _to_address_bytes(members.statistics_pointers)
        # A variance that is not positive in a member itself is looked at whatever the shares are.
        self._has_nonpositive_variance = members.variance is not None and not bool((members.variance > 0).all())

    def blend(self, coefficients: NDArray[np.float64], weight_buffer: WeightBuffer, stream: cuda.Stream) -> None:
        """Queue the blend of the members by float64 (N,) shares: at most one kernel per region and one for all BatchNorms.

        It allocates nothing and waits for nothing. A member whose share is 0 is not read; a single share of 1 copies the
        member's numbers as they are. Raises what `validate_coefficients` does, and then nothing was queued, and what `enqueue_blend` does.

        Shares (W, N) are a row for each tensor (see Members), and all that holds for each weight by its row: the same number of
        kernels, behind one small copy (see by_row.py). Rows that are all equal go as that one row.
        """
        self.enqueue_blend(self.validate_coefficients(coefficients), weight_buffer, stream)

    def validate_coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """The first half of `blend`, which looks at no slot: the shares as `enqueue_blend` takes them, one row where all rows are equal.

        Raises CoefficientsError where re-estimated statistics do not reach (rows that differ, shares outside 0 to 1), EngineError for
        shares of another shape, that are all 0, or at which a blended variance is not positive.
        """
        members, known = self._members, self._members.recalibration
        if coefficients.ndim == 2:
            members.tensor_offsets.check_coefficients(coefficients, members.count)
        row = single_row_or_none(coefficients)
        if row is not None:
            check_coefficient_count(row, members.count)
        coefficients = coefficients if row is None else row
        if known is not None:
            known.validate_coefficients(coefficients)
        # Between variances that are positive lies nothing else; outside 0..1 there is.
        if members.variance is None or (not self._has_nonpositive_variance and float(coefficients.min()) >= 0.0):
            return coefficients
        if row is None:
            blended = members.tensor_offsets.blend_variance(coefficients, members.variance)
        else:
            of_sets = row if known is None else known.interpolation_weights(row)
            used = np.flatnonzero(of_sets)
            blended = of_sets[used] @ members.variance[used]
        if not bool((blended > 0).all()):
            raise EngineError("A BatchNorm's blended variance is not positive at this alpha.")
        return coefficients

    def enqueue_blend(self, coefficients: NDArray[np.float64], weight_buffer: WeightBuffer, stream: cuda.Stream) -> None:
        """The second half of `blend`, for who looks at shares before it touches a slot: what `validate_coefficients` returned, which is not checked again.

        Raises EngineError where the driver refuses a launch, and then the arena is to be blended again.
        """
        arena = weight_buffer.buffer.pointer
        if arena == 0:
            raise EngineError("The slot's weights were freed.")
        if coefficients.ndim == 2:
            self._enqueue_per_tensor(coefficients, weight_buffer, stream)
            return
        # Plain bytes and lists: with NumPy's records this would take longer than the kernel of a small network.
        each = coefficients.tolist()
        used = [index for index, share in enumerate(each) if share != 0.0]
        known = self._members.recalibration
        of_sets = coefficients if known is None else known.interpolation_weights(coefficients)
        sets = used if known is None else np.flatnonzero(of_sets).tolist()
        chosen, of_chosen = [each[index] for index in used], of_sets[sets].tolist()
        scale = arena + self._scale_offset
        try:
            if self._fold is not None:
                head = ARGUMENT_HEAD.pack(arena, self._members.shift_offsets, scale, self._members.layout.channels)
                doubles = struct.pack(f"={len(sets)}d", *of_chosen).ljust(8 * MAX_MEMBERS, b"\0")
                data = np.void(
                    b"".join(
                        (
                            head,
                            _pack_member_addresses(self._statistics_addresses, sets),
                            doubles,
                            ARGUMENT_TAIL.pack(len(sets), 0),
                        )
                    )
                )
                self._fold.prepared_async_call(self._fold_grid, THREADS_PER_BLOCK, stream, data)
            by_members, by_knots = (used, _pack_float32(chosen)), (sets, _pack_float32(of_chosen))
            for launch in self._launches:
                read, singles = by_knots if launch.reads_statistics else by_members
                count = len(read)
                head = ARGUMENT_HEAD.pack(arena + launch.offset, launch.channel_table, scale, launch.count)
                data = np.void(
                    b"".join((head, _pack_member_addresses(launch.addresses, read), singles, ARGUMENT_TAIL.pack(count, 0)))
                )
                launch.functions[count].prepared_async_call(launch.grids[count], THREADS_PER_BLOCK, stream, data)
        except cuda.Error as error:
            raise EngineError(f"The blend could not be queued: {error}.") from error

    def _enqueue_per_tensor(self, coefficients: NDArray[np.float64], weight_buffer: WeightBuffer, stream: cuda.Stream) -> None:
        members, arena = self._members, weight_buffer.buffer.pointer
        columns = np.flatnonzero(coefficients.any(axis=0))
        used, count = columns.tolist(), len(columns)
        data, singles = members.tensor_offsets.pack_table(coefficients, columns)
        scale, tail = arena + self._scale_offset, ARGUMENT_TAIL.pack(count, 0)
        try:
            table = weight_buffer.coefficient_table.upload(data, stream)
            if self._fold_per_tensor is not None:
                head = PER_TENSOR_ARGUMENT_HEAD.pack(
                    arena, members.shift_offsets, scale, members.layout.channels, members.statistics_index, table
                )
                argument = np.void(b"".join((head, _pack_member_addresses(self._statistics_addresses, used), tail)))
                self._fold_per_tensor.prepared_async_call(self._fold_grid, THREADS_PER_BLOCK, stream, argument)
            for launch in self._launches:
                head = PER_TENSOR_ARGUMENT_HEAD.pack(
                    arena + launch.offset, launch.channel_table, scale, launch.count, launch.row_index, table + singles
                )
                argument = np.void(b"".join((head, _pack_member_addresses(launch.addresses, used), tail)))
                launch.per_tensor_functions[count].prepared_async_call(
                    launch.per_tensor_grids[count], THREADS_PER_BLOCK, stream, argument
                )
        except cuda.Error as error:
            raise EngineError(f"The blend could not be queued: {error}.") from error

    def count_bytes_moved(self, coefficients: NDArray[np.float64]) -> int:
        """Bytes that a blend by these shares, (N,) or (W, N), reads and writes."""
        if coefficients.ndim == 2 and single_row_or_none(coefficients) is None:
            return self._count_per_tensor_bytes(coefficients)
        coefficients = coefficients if coefficients.ndim == 1 else coefficients[0]
        used = int(np.count_nonzero(coefficients))
        known = self._members.recalibration
        sets = used if known is None else int(np.count_nonzero(known.interpolation_weights(coefficients)))
        folds = self._members.layout.channels * (sets * 40 + 16)
        read = [sets if launch.reads_statistics else used for launch in self._launches]
        return folds + sum(
            count * launch.bytes_per_member + launch.other_bytes for count, launch in zip(read, self._launches, strict=True)
        )

    def _count_per_tensor_bytes(self, coefficients: NDArray[np.float64]) -> int:
        places, read = self._members.tensor_offsets, (coefficients != 0).sum(axis=1)
        total = int(8 * read[places.channels].sum()) + self._members.layout.channels * (16 + 20)
        for launch in self._launches:
            lines = int(launch.lines_per_tensor @ read[places.weights])
            total += (
                lines * WEIGHT_ALIGNMENT_FLOATS * launch.bytes_per_member // launch.count
                + launch.other_bytes
                + launch.count // WEIGHT_ALIGNMENT_FLOATS * 4
            )
        return total

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
    BLEND,
    BLOCK,
    BY_ROW,
    FOLD,
    HEAD,
    HEAD_BY_ROW,
    LINE,
    MAX_MEMBERS,
    TAIL,
    Kernels,
    grid,
    name,
    tile,
)
from engines.cuda.layout import DeviceLayout, Region
from engines.cuda.members import Members
from engines.cuda.memory import Buffer
from engines.cuda.per_tensor_coefficients import Table
from engines.shares import check_count, only_row


class Live:
    """One slot's blended weights: an arena in the layout, and the shares that it was blended by where weights have their own."""

    def __init__(self, device: Device, layout: DeviceLayout) -> None:
        self.layout = layout
        self.buffer = Buffer(device, layout.nbytes)
        try:
            self.table = Table(device, layout)
        except BaseException:
            self.buffer.free()
            raise

    def pointer(self, name: str) -> int:
        """The weight's address."""
        return self.buffer.pointer + self.layout.offset(name)

    def free(self) -> None:
        """Nothing queued may still use it. Calling it again does nothing."""
        self.buffer.free()
        self.table.free()


class _Launch:
    """What a region's kernel is launched with. Only addresses of the arena, members and shares change from call to call."""

    def __init__(self, kernels: Kernels, members: Members, region: Region, dtype: np.dtype[Any], pointers: list[int]) -> None:
        scaled, self.of_knots = region.kind == "fold", region.kind == "knots"
        self.offset, self.count, self.lines = region.offset, region.count, members.lines.get(region, 0)
        self.rows = members.rows[region]
        self.lines_of_row = np.bincount(members.layout.rows(region), minlength=len(members.row_places.weights))
        self.addresses = _addresses(pointers)
        self.bytes_per_member = region.count * dtype.itemsize
        self.bytes_besides = region.count * region.dtype.itemsize + (region.count // 8 if scaled else 0)
        # By the number of members that are read, from 1; of knots, too, no more than members are not 0.
        counts = range(1, members.count + 1)
        self.functions = [None, *(kernels.function(name(dtype, region.dtype, n, scaled=scaled), BLEND) for n in counts)]
        self.grids = [None, *(grid(region.count, tile(dtype, n, scaled=scaled)) for n in counts)]
        by_row = [name(dtype, region.dtype, n, scaled=scaled, by_row=True) for n in counts]
        self.functions_by_row = [None, *(kernels.function(each, BY_ROW) for each in by_row)]
        self.grids_by_row = [None, *(grid(region.count, tile(dtype, n, scaled=scaled, by_row=True)) for n in counts)]


def _addresses(pointers: list[int]) -> list[bytes]:
    return [pointer.to_bytes(8, sys.byteorder) for pointer in pointers]


def _chosen(addresses: list[bytes], used: list[int]) -> bytes:
    """The addresses of the members that are read, in the space for all of them."""
    return b"".join([addresses[index] for index in used]).ljust(8 * MAX_MEMBERS, b"\0")


def _singles(shares: list[float]) -> bytes:
    """The shares in float32, in the space for those of all members."""
    return struct.pack(f"={len(shares)}f", *shares).ljust(4 * MAX_MEMBERS, b"\0")


class DeviceBlender:
    """Blends members into live arenas of the same layout, on whatever stream. It owns no memory, and any thread may use it."""

    def __init__(self, device: Device, members: Members) -> None:
        kernels = Kernels(device)
        layout = members.layout
        self._members = members
        self._scale_offset = layout.scale_offset
        self._launches = [_Launch(kernels, members, *region) for region in members.regions]
        self._fold = kernels.function("fold", FOLD) if layout.channels else None
        self._fold_by_row = kernels.function("fold_by_row", BY_ROW) if layout.channels else None
        self._fold_grid = grid(layout.channels, BLOCK[0])
        self._statistics = _addresses(members.statistics)
        # A variance that is not positive in a member itself is looked at whatever the shares are.
        self._doubtful = members.variance is not None and not bool((members.variance > 0).all())

    def blend(self, shares: NDArray[np.float64], live: Live, stream: cuda.Stream) -> None:
        """Queue the blend of the members by float64 (N,) shares: at most one kernel per region and one for all BatchNorms.

        It allocates nothing and waits for nothing. A member whose share is 0 is not read; a single share of 1 copies the
        member's numbers as they are. Raises what `taken` does, and then nothing was queued, and what `queue` does.

        Shares (W, N) are a row for each tensor (see Members), and all that holds for each weight by its row: the same number of
        kernels, behind one small copy (see by_row.py). Rows that are all equal go as that one row.
        """
        self.queue(self.taken(shares), live, stream)

    def taken(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """The first half of `blend`, which looks at no slot: the shares as `queue` takes them, one row where all rows are equal.

        Raises CoefficientsError where re-estimated statistics do not reach (rows that differ, shares outside 0 to 1), EngineError for
        shares of another shape, that are all 0, or at which a blended variance is not positive.
        """
        members, known = self._members, self._members.recalibration
        if shares.ndim == 2:
            members.row_places.check(shares, members.count)
        row = only_row(shares)
        if row is not None:
            check_count(row, members.count)
        shares = shares if row is None else row
        if known is not None:
            known.checked(shares)
        # Between variances that are positive lies nothing else; outside 0..1 there is.
        if members.variance is None or (not self._doubtful and float(shares.min()) >= 0.0):
            return shares
        if row is None:
            blended = members.row_places.blended_variance(shares, members.variance)
        else:
            of_sets = row if known is None else known.shares(row)
            used = np.flatnonzero(of_sets)
            blended = of_sets[used] @ members.variance[used]
        if not bool((blended > 0).all()):
            raise EngineError("A BatchNorm's blended variance is not positive at this alpha.")
        return shares

    def queue(self, shares: NDArray[np.float64], live: Live, stream: cuda.Stream) -> None:
        """The second half of `blend`, for who looks at shares before it touches a slot: what `taken` returned, which is not checked again.

        Raises EngineError where the driver refuses a launch, and then the arena is to be blended again.
        """
        arena = live.buffer.pointer
        if arena == 0:
            raise EngineError("The slot's weights were freed.")
        if shares.ndim == 2:
            self._queue_by_row(shares, live, stream)
            return
        # Plain bytes and lists: with NumPy's records this would take longer than the kernel of a small network.
        each = shares.tolist()
        used = [index for index, share in enumerate(each) if share != 0.0]
        known = self._members.recalibration
        of_sets = shares if known is None else known.shares(shares)
        sets = used if known is None else np.flatnonzero(of_sets).tolist()
        chosen, of_chosen = [each[index] for index in used], of_sets[sets].tolist()
        scale = arena + self._scale_offset
        try:
            if self._fold is not None:
                head = HEAD.pack(arena, self._members.places, scale, self._members.layout.channels)
                doubles = struct.pack(f"={len(sets)}d", *of_chosen).ljust(8 * MAX_MEMBERS, b"\0")
                data = np.void(b"".join((head, _chosen(self._statistics, sets), doubles, TAIL.pack(len(sets), 0))))
                self._fold.prepared_async_call(self._fold_grid, BLOCK, stream, data)
            by_members, by_knots = (used, _singles(chosen)), (sets, _singles(of_chosen))
            for launch in self._launches:
                read, singles = by_knots if launch.of_knots else by_members
                count = len(read)
                head = HEAD.pack(arena + launch.offset, launch.lines, scale, launch.count)
                data = np.void(b"".join((head, _chosen(launch.addresses, read), singles, TAIL.pack(count, 0))))
                launch.functions[count].prepared_async_call(launch.grids[count], BLOCK, stream, data)
        except cuda.Error as error:
            raise EngineError(f"The blend could not be queued: {error}.") from error

    def _queue_by_row(self, shares: NDArray[np.float64], live: Live, stream: cuda.Stream) -> None:
        members, arena = self._members, live.buffer.pointer
        columns = np.flatnonzero(shares.any(axis=0))
        used, count = columns.tolist(), len(columns)
        data, singles = members.row_places.packed(shares, columns)
        scale, tail = arena + self._scale_offset, TAIL.pack(count, 0)
        try:
            table = live.table.fill(data, stream)
            if self._fold_by_row is not None:
                head = HEAD_BY_ROW.pack(arena, members.places, scale, members.layout.channels, members.statistics_rows, table)
                argument = np.void(b"".join((head, _chosen(self._statistics, used), tail)))
                self._fold_by_row.prepared_async_call(self._fold_grid, BLOCK, stream, argument)
            for launch in self._launches:
                head = HEAD_BY_ROW.pack(arena + launch.offset, launch.lines, scale, launch.count, launch.rows, table + singles)
                argument = np.void(b"".join((head, _chosen(launch.addresses, used), tail)))
                launch.functions_by_row[count].prepared_async_call(launch.grids_by_row[count], BLOCK, stream, argument)
        except cuda.Error as error:
            raise EngineError(f"The blend could not be queued: {error}.") from error

    def bytes_moved(self, shares: NDArray[np.float64]) -> int:
        """Bytes that a blend by these shares, (N,) or (W, N), reads and writes."""
        if shares.ndim == 2 and only_row(shares) is None:
            return self._bytes_by_row(shares)
        shares = shares if shares.ndim == 1 else shares[0]
        used = int(np.count_nonzero(shares))
        known = self._members.recalibration
        sets = used if known is None else int(np.count_nonzero(known.shares(shares)))
        folds = self._members.layout.channels * (sets * 40 + 16)
        read = [sets if launch.of_knots else used for launch in self._launches]
        return folds + sum(
            count * launch.bytes_per_member + launch.bytes_besides for count, launch in zip(read, self._launches, strict=True)
        )

    def _bytes_by_row(self, shares: NDArray[np.float64]) -> int:
        places, read = self._members.row_places, (shares != 0).sum(axis=1)
        total = int(8 * read[places.channels].sum()) + self._members.layout.channels * (16 + 20)
        for launch in self._launches:
            lines = int(launch.lines_of_row @ read[places.weights])
            total += lines * LINE * launch.bytes_per_member // launch.count + launch.bytes_besides + launch.count // LINE * 4
        return total

"""Members: a family on the device, uploaded once: what every blend reads and nobody ever writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import BatchNormTable
from dni_deploy.errors import LimitError
from engines.cuda.device import Device
from engines.cuda.kernels import MAX_MEMBERS
from engines.cuda.layout import DeviceLayout, Region
from engines.cuda.memory import Buffer
from engines.cuda.per_tensor_coefficients import TensorOffsets
from engines.lowering.recipes import Recipes, select_statistics_tensors

FLOAT16, FLOAT32 = np.dtype(np.float16), np.dtype(np.float32)


class DeviceMembers:
    """The pristine members on the device: per region and member one flat array, and what the BatchNorms need.

    members: per member the family's tensors by name, the blended ones, all in the same order, which is that of shares by weight; they
    are copied and not kept. A region is float16 where every tensor that is copied into it is, float32 otherwise.
    recalibration: BatchNorm statistics that were re-estimated; what is made of them is then here once for each of its knots, not for each
    member. The layout is to know of them, too.
    """

    def __init__(
        self,
        device: Device,
        layout: DeviceLayout,
        recipes: Recipes,
        members: Sequence[Mapping[str, NDArray[Any]]],
        recalibration: BatchNormTable | None = None,
    ) -> None:
        if not 1 <= len(members) <= MAX_MEMBERS:
            raise LimitError(f"The blend kernel takes 1 to {MAX_MEMBERS} members; this family has {len(members)}.")
        self.layout = layout
        self.count = len(members)
        self.recalibration = recalibration
        self.regions: list[tuple[Region, np.dtype[Any], list[int]]] = []
        self.channel_tables: dict[Region, int] = {}
        self.row_indices: dict[Region, int] = {}
        self.statistics_pointers: list[int] = []
        self.shift_offsets = self.statistics_index = 0
        self.tensor_offsets = TensorOffsets(layout, tuple(members[0]))
        self.variance: NDArray[np.float64] | None = None
        self._buffers: list[Buffer] = []
        try:
            self._upload_members(device, recipes, members)
        except BaseException:
            self.free()
            raise

    def _upload_members(self, device: Device, recipes: Recipes, members: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        at_knots = select_statistics_tensors(recipes, members, self.recalibration)
        for region in self.layout.regions:
            if region.kind == "shift" or region.count == 0:
                continue
            sets = at_knots if region.kind == "knots" else members
            dtype = _storage_dtype(region, recipes, sets)
            row = np.zeros(region.count, dtype)
            pointers = []
            for tensors in sets:
                for weight, start in region.starts:
                    row[start : start + self.layout.count_of(weight)] = (
                        recipes.linear[weight].compute_value(tensors).reshape(-1)
                    )
                pointers.append(self._upload_array(device, row))
            self.regions.append((region, dtype, pointers))
            self.row_indices[region] = self._upload_array(device, self.layout.build_row_index(region))
            if region.kind == "fold":
                self.channel_tables[region] = self._upload_array(device, self.layout.build_channel_table(region))
        if self.layout.channels:
            rows = [
                np.ascontiguousarray(np.concatenate([fold.stack_statistics(tensors) for fold in self.layout.folds], axis=1))
                for tensors in at_knots
            ]
            self.statistics_pointers = [self._upload_array(device, row) for row in rows]
            self.shift_offsets = self._upload_array(device, self.layout.build_shift_offsets())
            self.statistics_index = self._upload_array(device, self.layout.build_statistics_index())
            self.variance = np.stack([row[0] for row in rows])

    def _upload_array(self, device: Device, array: NDArray[Any]) -> int:
        buffer = Buffer(device, array.nbytes)
        self._buffers.append(buffer)
        buffer.upload(array)
        return buffer.pointer

    @property
    def nbytes(self) -> int:
        """Device memory that they take."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def free(self) -> None:
        """Nothing queued may still use them. Calling it again does nothing."""
        for buffer in self._buffers:
            buffer.free()


def _storage_dtype(region: Region, recipes: Recipes, members: Sequence[Mapping[str, NDArray[Any]]]) -> np.dtype[Any]:
    """float16 where that keeps every number of every member as it is."""
    linear = [recipes.linear[name] for name, _ in region.starts]
    sources = [recipe.source for recipe in linear if recipe.source is not None]
    plain = all(recipe.factor == 1.0 and float(np.float16(recipe.offset)) == recipe.offset for recipe in linear)
    plain = plain and all(recipe.offset == 0.0 for recipe in linear if recipe.source is not None)
    copied = all(tensors[source].dtype == FLOAT16 for tensors in members for source in sources)
    return FLOAT16 if sources and plain and copied else FLOAT32

"""A family's members on the device, uploaded once: what every blend reads and nothing ever writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.calibration_table import CalibrationTable
from dni_deploy.errors import LimitError
from engines.cuda.device import Device
from engines.cuda.kernels import MAX_MEMBERS
from engines.cuda.layout import DeviceLayout, Region
from engines.cuda.memory import Buffer
from engines.cuda.per_tensor_coefficients import TensorOffsets
from engines.lowering.recipes import Recipes, select_statistics_tensors

FLOAT16, FLOAT32 = np.dtype(np.float16), np.dtype(np.float32)


class DeviceMembers:
    """The original members on the device: per region and member one flat array, and what the BatchNorms need.

    This object owns the device memory. A region is float16 where every tensor that is copied into it is, float32 otherwise.

    Attributes:
        layout: The layout of the weight buffers.
        count: Number of members.
        calibration: The calibration table; None without.
        regions: Per blended region its dtype and the device address of each member's (or calibration point's) array.
        channel_tables: Device address of each "fold" region's channel table.
        row_indices: Device address of each region's row index.
        statistics_pointers: Device address of each member's (or calibration point's) statistics, float64 (5, channels).
        shift_offsets: Device address of where each channel's shift goes; 0 without BatchNorms.
        statistics_index: Device address of each channel's rows in a table of coefficients; 0 without BatchNorms.
        tensor_offsets: Rows of per-tensor coefficients.
        variance: float64 (N, channels) on the host, to validate coefficients by; None without BatchNorms.

    Thread safety: any thread may read it; the caller holds the device.
    """

    def __init__(
        self,
        device: Device,
        layout: DeviceLayout,
        recipes: Recipes,
        members: Sequence[Mapping[str, NDArray[Any]]],
        calibration: CalibrationTable | None = None,
    ) -> None:
        """Uploads the members; nothing is left behind where that fails.

        Args:
            device: The device.
            layout: The layout, made with the names of the calibration's tensors where there are some.
            recipes: How each weight is made of the family's tensors.
            members: Per member the blended tensors by name, all in the same order, which is that of per-tensor coefficients;
                they are copied and not kept.
            calibration: The calibration table: what is made of it is uploaded once for each calibration point,
                not for each member.

        Raises:
            LimitError: Too many members, or no room.
        """
        if not 1 <= len(members) <= MAX_MEMBERS:
            raise LimitError(f"The blend kernel takes 1 to {MAX_MEMBERS} members; this family has {len(members)}.")
        self.layout = layout
        self.count = len(members)
        self.calibration = calibration
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
        point_tensors = select_statistics_tensors(recipes, members, self.calibration)
        for region in self.layout.regions:
            if region.kind == "shift" or region.count == 0:
                continue
            tensor_sets = point_tensors if region.kind == "knots" else members
            dtype = _storage_dtype(region, recipes, tensor_sets)
            row = np.zeros(region.count, dtype)
            pointers = []
            for tensors in tensor_sets:
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
                for tensors in point_tensors
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
        """Device memory of all members, in bytes."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def free(self) -> None:
        """Frees the memory. Nothing queued may still use it. Calling it again does nothing."""
        for buffer in self._buffers:
            buffer.free()


def _storage_dtype(region: Region, recipes: Recipes, members: Sequence[Mapping[str, NDArray[Any]]]) -> np.dtype[Any]:
    """Returns float16 where that keeps every number of every member as it is, else float32."""
    linear = [recipes.linear[name] for name, _ in region.starts]
    sources = [recipe.source for recipe in linear if recipe.source is not None]
    plain = all(recipe.factor == 1.0 and float(np.float16(recipe.offset)) == recipe.offset for recipe in linear)
    plain = plain and all(recipe.offset == 0.0 for recipe in linear if recipe.source is not None)
    copied = all(tensors[source].dtype == FLOAT16 for tensors in members for source in sources)
    return FLOAT16 if sources and plain and copied else FLOAT32

"""Element types of tensors in files: how they are stored, and what they are read as."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import CheckpointError, escape_name

STORED_DTYPES: dict[str, str] = {
    "float32": "<f4", "float64": "<f8", "float16": "<f2", "bfloat16": "<u2", "int64": "<i8", "int32": "<i4", "int16": "<i2",
    "int8": "i1", "uint8": "u1", "bool": "u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8",
}  # fmt: skip
"""NumPy dtype of the stored elements, by torch's name of the type; `convert_elements` converts bfloat16 and bool."""


def convert_elements(raw: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Converts stored elements to a type that NumPy has.

    Args:
        raw: The elements as stored, of any shape.
        dtype: A key of STORED_DTYPES.

    Returns:
        The same numbers, in native byte order: bfloat16 widened to float32 exactly, bool from any nonzero byte. `raw` itself
        where nothing is to be converted.
    """
    if dtype == "bfloat16":
        return np.asarray((raw.astype(np.uint32) << 16).view(np.float32)).reshape(raw.shape)
    if dtype == "bool":
        return np.asarray(raw != 0)
    return raw if raw.dtype.isnative else raw.astype(raw.dtype.newbyteorder("="))


def make_dtype_error(dtype: object, name: object, where: str) -> CheckpointError:
    """Makes the error for a tensor of a type that is not read."""
    return CheckpointError(
        f"{where}: tensor {escape_name(name, 80)!r} is {escape_name(dtype, 30)}; only float16, float32, float64, bfloat16, "
        "integer and bool tensors are read."
    )

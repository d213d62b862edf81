"""The tensors of a .safetensors file, read without torch; every field of its header is checked first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.checkpoints.dtypes import STORED_DTYPES, convert_elements, make_dtype_error
from dni_deploy.checkpoints.file_type import CheckpointFile
from dni_deploy.errors import CheckpointError, LimitError, escape_name
from dni_deploy.utils.text_file import load_json

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 20_000
"""The largest public networks have a few thousand; a header of 100,000 costs seconds and 140 MB before any use."""

_DTYPE_NAMES = {
    "F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16", "I8": "int8", "I16": "int16", "I32": "int32",
    "I64": "int64", "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
}  # fmt: skip


def read_tensors(checkpoint_file: CheckpointFile) -> dict[str, NDArray[Any]]:
    """Reads the tensors.

    Args:
        checkpoint_file: The opened file.

    Returns:
        Arrays by name, in file order, C-contiguous, of their own dtype, bfloat16 as float32; views of one buffer where
        alignment allows.

    Raises:
        CheckpointError: The header is not exactly right.
        LimitError: It is beyond MAX_HEADER_BYTES or MAX_TENSORS.
    """
    header, start = _read_header(checkpoint_file)
    spans = _parse_spans(header, checkpoint_file.size - start, checkpoint_file.name)
    checkpoint_file.file.seek(start)
    data = np.frombuffer(checkpoint_file.read(), np.uint8)
    tensors = {}
    for name, (dtype, shape, begin, end) in spans.items():
        stored, part = np.dtype(STORED_DTYPES[dtype]), data[begin:end]
        aligned = part if (start + begin) % stored.itemsize == 0 and part.ctypes.data % 8 == 0 else part.copy()
        tensors[name] = convert_elements(aligned.view(stored).reshape(shape), dtype)
    return tensors


def _read_header(checkpoint_file: CheckpointFile) -> tuple[dict[str, Any], int]:
    name = checkpoint_file.name
    if checkpoint_file.size < 10:
        raise CheckpointError(f"{name} is cut short: {checkpoint_file.size} bytes are less than any safetensors header.")
    length = int.from_bytes(checkpoint_file.head[:8], "little")
    if length > MAX_HEADER_BYTES and length <= checkpoint_file.size - 8:
        raise LimitError(f"{name} has a safetensors header of {length:,} bytes; the limit is {MAX_HEADER_BYTES:,}.")
    if not 2 <= length <= checkpoint_file.size - 8:
        raise CheckpointError(
            f"{name} is damaged or not safetensors: a header of {length:,} bytes is claimed, the file has "
            f"{checkpoint_file.size:,}."
        )
    checkpoint_file.file.seek(8)
    text = checkpoint_file.read(length)
    if text.count(b"data_offsets") > MAX_TENSORS or text.count(b"[") + text.count(b"{") > 4 * MAX_TENSORS:
        raise LimitError(f"{name} has more than {MAX_TENSORS:,} tensors in its header.")
    try:
        header = load_json(text.decode("utf-8"), allow_nan=False)
    except ValueError:  # a UsageError is one
        raise CheckpointError(
            f"{name} is damaged or not safetensors: its header is not plain JSON with unique names."
        ) from None
    if text[:1] != b"{" or not isinstance(header, dict):
        raise CheckpointError(f"{name} is damaged or not safetensors: its header is not a JSON object.")
    return header, 8 + length


def _parse_spans(header: dict[str, Any], size: int, where: str) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{where} is damaged: the metadata in its header is not text by name.")
    if len(header) > MAX_TENSORS:
        raise LimitError(f"{where} has {len(header):,} tensors; the limit is {MAX_TENSORS:,}.")
    spans = {name: _parse_span(name, entry, where) for name, entry in header.items()}
    ordered = sorted(spans.items(), key=lambda item: item[1][2:])
    position = 0
    for name, (_, _, begin, end) in ordered:
        if begin != position:
            raise CheckpointError(
                f"{where} is damaged: tensor {escape_name(name, 80)!r} overlaps another or leaves a hole before it."
            )
        position = end
    if position != size:
        kind = "is cut short" if position > size else "has bytes after its end"
        raise CheckpointError(
            f"{where} {kind}: {position:,} bytes of numbers are declared, {size:,} are there. Download it again."
        )
    return dict(ordered)


def _parse_span(name: str, entry: Any, where: str) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} is damaged: the header's entry for {escape_name(name, 80)!r} has the wrong fields.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_NAMES:
        raise make_dtype_error(dtype, name, where)
    dtype = _DTYPE_NAMES[dtype]
    numbers_fit = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2 and len(shape) <= 16
    if not numbers_fit or not all(type(number) is int and 0 <= number < 2**62 for number in [*shape, *offsets]):
        raise CheckpointError(
            f"{where} is damaged: the shape or place of tensor {escape_name(name, 80)!r} is not whole numbers."
        )
    expected = math.prod(shape) * np.dtype(STORED_DTYPES[dtype]).itemsize
    if offsets[1] - offsets[0] != expected:
        raise CheckpointError(
            f"{where} is damaged: tensor {escape_name(name, 80)!r} of shape {tuple(shape)} needs {expected:,} bytes "
            f"and has {offsets[1] - offsets[0]:,}."
        )
    return dtype, tuple(shape), offsets[0], offsets[1]

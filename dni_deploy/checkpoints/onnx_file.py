"""Reads an .onnx file without running it, and refuses graphs whose weights cannot be blended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from dni_deploy.checkpoints.file_type import open_checkpoint_file
from dni_deploy.checkpoints.graph_file import GraphFile, check_model
from dni_deploy.errors import CheckpointError, LimitError, RefusedError, escape_name
from dni_deploy.utils.onnx_weights import iterate_tensors

MAX_MODEL_BYTES = (1 << 31) - (16 << 20)
"""Protobuf's limit for one message, less 16 MiB for what a bundle adds."""
STANDARD_DOMAINS = ("", "ai.onnx")
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_READABLE_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_OTHER_FLOATS = {
    kind
    for name, kind in TensorProto.DataType.items()
    if name.startswith(("DOUBLE", "BFLOAT", "FLOAT", "COMPLEX")) and kind not in _READABLE_FLOATS
}


def read_onnx_file(path: str | os.PathLike[str]) -> GraphFile:
    """Reads an .onnx file, with its external data where that lies beside it.

    Args:
        path: The file.

    Returns:
        The network; float16 is widened to float32, which is exact, with a note.

    Raises:
        CheckpointError: The file is missing, damaged, quantized, or has operators, types or inputs that a family cannot have.
        RefusedError: It points at a file outside of its folder.
        LimitError: It has 2 GiB of weights.
    """
    with open_checkpoint_file(path, has_graph=True) as file:
        digest, name = file.sha256(), file.name
        if file.size > MAX_MODEL_BYTES:
            raise LimitError(f"{name} has {file.size:,} bytes; the limit for an ONNX file is {MAX_MODEL_BYTES:,}.")
        model = onnx.ModelProto()
        try:
            model.ParseFromString(file.read())
        except Exception:  # the protobuf implementations differ in what they raise
            raise CheckpointError(f"{name} is damaged or not an ONNX file; download or export it again.") from None
    if _has_damaged_text(model):
        raise CheckpointError(f"{name} is damaged: a name in it is not text; download or export it again.")
    if not model.graph.node or not model.graph.output:
        raise CheckpointError(f"{name} is damaged or not an ONNX file: it has no nodes or no outputs.")
    _check_operators(model, name)
    _load_external_data(model, Path(path), name)
    _check_types(model, name)
    notes = _widen_float16(model, name)
    if model.ByteSize() > MAX_MODEL_BYTES:
        raise LimitError(
            f"{name} has {model.ByteSize():,} bytes as float32; the limit for an ONNX graph is {MAX_MODEL_BYTES:,}."
        )
    check_model(model, name)
    return GraphFile(model, os.fspath(path), digest, "onnx", notes)


def _has_damaged_text(message: Any) -> bool:
    """Tells whether a text anywhere in a message is not UTF-8: some versions of protobuf give it as bytes."""
    for field, value in message.ListFields():
        values = [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
        if field.type == field.TYPE_STRING and not all(isinstance(text, str) for text in values):
            return True
        if field.type == field.TYPE_MESSAGE and any(map(_has_damaged_text, values)):
            return True
    return False


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    if model.functions:
        raise CheckpointError(f"{name} defines functions of its own; export it again with its functions inlined.")
    for node in model.graph.node:
        operator = f"the operator {escape_name(node.op_type, 60)!r}"
        if node.domain not in STANDARD_DOMAINS:
            raise CheckpointError(
                f"{name} has {operator} of {escape_name(node.domain, 60)!r}; only operators of the ONNX standard can be blended."
            )
        if node.op_type in CONTROL_FLOW or any(
            attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute
        ):
            raise CheckpointError(f"{name} has {operator}, which is control flow; export the network without it.")
        if node.op_type in QUANTIZED or node.op_type.startswith("QLinear"):
            raise CheckpointError(f"{name} is quantized: it has {operator}. Integers do not blend; give the float network.")


def _check_types(model: onnx.ModelProto, name: str) -> None:
    if model.graph.sparse_initializer:
        raise CheckpointError(f"{name} has sparse weights; export it with dense ones.")
    kinds = {tensor.data_type for tensor in iterate_tensors(model)} | {kind.elem_type for kind in _iterate_types(model)}
    kinds |= {
        attribute.i
        for node in model.graph.node
        if node.op_type == "Cast"
        for attribute in node.attribute
        if attribute.name == "to"
    }
    unknown = sorted(kinds - set(TensorProto.DataType.values()))
    if unknown:
        raise CheckpointError(
            f"{name} is damaged or of a newer ONNX: it has the element type {unknown[0]}, which is not known."
        )
    other = sorted(kinds & _OTHER_FLOATS)
    if other:
        raise CheckpointError(
            f"{name} computes in {TensorProto.DataType.Name(other[0])}; families of ONNX files are float32 or float16."
        )


def _load_external_data(model: onnx.ModelProto, path: Path, name: str) -> None:
    total = 0
    for tensor in iterate_tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        data_path = _resolve_data_path(path, entries.get("location", ""), name)
        try:
            offset, length = int(entries.get("offset", "0")), int(entries.get("length", "-1"))
        except ValueError:
            raise CheckpointError(f"{name} has a tensor whose place in {escape_name(data_path)} is not a number.") from None
        with open_checkpoint_file(data_path, has_graph=True) as file:
            length = file.size - offset if length < 0 else length
            total += length
            if total > MAX_MODEL_BYTES:
                raise LimitError(f"{name} has more than {MAX_MODEL_BYTES:,} bytes of weights, the limit for an ONNX file.")
            if not 0 <= offset <= offset + length <= file.size:
                raise CheckpointError(
                    f"{name} has a tensor that lies beyond the end of {file.name}; the file is cut or of another export."
                )
            file.file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")


def _resolve_data_path(path: Path, location: str, name: str) -> Path:
    """The path of a data file; it may not leave the folder of the .onnx file, by a link neither."""
    folder = path.parent.resolve()
    if not location or "\0" in location or not (folder / location).resolve().is_relative_to(folder):
        raise RefusedError(f"{name} points at the file {escape_name(location, 80)!r}, which is not in its own folder.")
    return folder / location


def _iterate_types(model: onnx.ModelProto) -> Iterator[onnx.TypeProto.Tensor]:
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        yield value.type.tensor_type


def _widen_float16(model: onnx.ModelProto, name: str) -> tuple[str, ...]:
    """Makes a float16 graph float32. Every float16 number is a float32 one; what is rounded between the layers no longer is."""
    found = False
    for tensor in iterate_tensors(model):
        if tensor.data_type == TensorProto.FLOAT16:
            found = True
            try:
                values = numpy_helper.to_array(tensor).astype(np.float32)
            except Exception:  # onnx raises several kinds on data that does not fit the shape
                raise CheckpointError(
                    f"{name} is damaged: the data of {escape_name(tensor.name, 60)!r} does not fit it."
                ) from None
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for kind in _iterate_types(model):
        if kind.elem_type == TensorProto.FLOAT16:
            found, kind.elem_type = True, TensorProto.FLOAT
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                found, attribute.i = True, TensorProto.FLOAT
    return ("It is float16; the bundle computes in float32 with the same weights.",) if found else ()

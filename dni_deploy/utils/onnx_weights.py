"""The blended initializers of an ONNX graph, by name: their data removed, filled in, or pointed at a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from dni_deploy.errors import BundleError, MismatchError, RefusedError, escape_name

DATA_FIELDS = (
    "raw_data", "float_data", "int32_data", "int64_data", "uint64_data", "double_data", "string_data",
    "external_data", "data_location",
)  # fmt: skip


def find_weight_initializers(model: ModelProto, names: Iterable[str]) -> list[TensorProto]:
    """Finds the float32 initializers with these names.

    Args:
        model: The model.
        names: Names to look for.

    Returns:
        The model's own initializers, not copies, in graph order.

    Raises:
        MismatchError: One of them is not float32, or there is none.
    """
    names = set(names)
    initializers = [initializer for initializer in model.graph.initializer if initializer.name in names]
    for initializer in initializers:
        if initializer.data_type != TensorProto.FLOAT:
            kind = TensorProto.DataType.Name(initializer.data_type)
            raise MismatchError(
                f"The graph has {escape_name(initializer.name)!r} as {kind}; a bundle's graph has its weights as FLOAT."
            )
    if not initializers:
        raise MismatchError(
            "None of the graph's initializers has the name of a tensor of the family, so nothing could be blended."
        )
    return initializers


def strip_initializer(initializer: TensorProto) -> None:
    """Removes the data; name, shape and element type stay."""
    for name in DATA_FIELDS:
        initializer.ClearField(name)


def fill_initializer(initializer: TensorProto, values: NDArray[np.float32]) -> None:
    """Fills in float32 data; raises MismatchError if the shape differs."""
    if tuple(initializer.dims) != values.shape:
        raise MismatchError(
            f"The tensor {escape_name(initializer.name)!r} is {tuple(values.shape)}, the graph has it as "
            f"{tuple(initializer.dims)}."
        )
    strip_initializer(initializer)
    initializer.raw_data = np.ascontiguousarray(values, "<f4").tobytes()


def set_external_data(initializer: TensorProto, file: str, offset: int, length: int) -> None:
    """Points an initializer at bytes of a file beside the graph (ONNX external data).

    Args:
        initializer: The initializer; data that it holds is removed.
        file: Name of the file.
        offset: First byte in the file.
        length: Number of bytes.
    """
    strip_initializer(initializer)
    initializer.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", str(offset)), ("length", str(length))):
        entry = initializer.external_data.add()
        entry.key, entry.value = key, value


def parse_graph(data: bytes, where: str) -> ModelProto:
    """Parses a graph without loading the files that it points at.

    Args:
        data: The bytes of the model.
        where: The file, for messages.

    Returns:
        The model.

    Raises:
        BundleError: It is no ONNX graph.
    """
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # the protobuf implementations differ in what they raise
        raise BundleError(f"{where} is not an ONNX graph, though its SHA-256 fits the manifest.") from None
    if not model.graph.node or not model.graph.output:
        raise BundleError(f"{where} is an ONNX graph without nodes or outputs.")
    return model


def strip_weights(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Removes the data of the weights, and refuses any other tensor whose data lies in a file.

    Args:
        model: The model, which is changed.
        shapes: Shape of each weight, by name.

    Raises:
        BundleError: A name is missing, or a shape or type differs.
        RefusedError: Another tensor points at a file.
    """
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    for name, shape in shapes.items():
        initializer = initializers.get(name)
        if initializer is None:
            raise BundleError(f"The manifest names the weight {escape_name(name)!r}, the bundle's graph has none of that name.")
        if tuple(initializer.dims) != shape or initializer.data_type != TensorProto.FLOAT:
            raise BundleError(
                f"The weight {escape_name(name)!r} is {shape} in the manifest, {tuple(initializer.dims)} in the graph."
            )
        strip_initializer(initializer)
    for tensor in iterate_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise RefusedError(
                f"The graph's tensor {escape_name(tensor.name)!r} points at a file, and it is not one of the weights."
            )


def iterate_tensors(message: Any) -> Iterator[TensorProto]:
    """Iterates over every tensor in a message: of a model, also those in subgraphs, attributes and functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in [value] if hasattr(value, "ListFields") else value:
            if isinstance(item, TensorProto):
                yield item
            else:
                yield from iterate_tensors(item)


def fill_initializers(model: ModelProto, names: Iterable[str], values: Callable[[str], NDArray[np.float32]]) -> None:
    """Fills the initializers of these names; `values` returns the float32 array of each."""
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    for name in names:
        fill_initializer(initializers[name], values(name))

"""Bind: put tensors into a graph's initializers by name, or take the data out of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dni_deploy.errors import MismatchError, shown


def bind(graph: onnx.ModelProto, tensors: Mapping[str, NDArray[np.generic]]) -> onnx.ModelProto:
    """A copy of the graph whose initializers of these names hold these values, as float32: what a refit by name does.

    Tensors that the graph does not name are ignored; initializers that are not named keep what they have.
    Raises MismatchError where a shape differs.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(graph)
    for initializer in bound.graph.initializer:
        if initializer.name not in tensors:
            continue
        tensor = np.asarray(tensors[initializer.name], np.float32)
        if tensor.shape != tuple(initializer.dims):
            raise MismatchError(
                f"The tensor {shown(initializer.name)!r} has the shape {tensor.shape}, the graph expects {tuple(initializer.dims)}."
            )
        fill(initializer, tensor)
    return bound


def fill(initializer: onnx.TensorProto, tensor: NDArray[np.float32]) -> None:
    """Make this initializer hold the tensor as raw little-endian float32, keeping its name."""
    initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(tensor), initializer.name))


def empty(graph: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of the graph whose initializers of these names have a name, dims and dtype, and no data."""
    wanted = set(names)
    kept = onnx.ModelProto()
    kept.CopyFrom(graph)
    for initializer in kept.graph.initializer:
        if initializer.name in wanted:
            bare = onnx.TensorProto(name=initializer.name, dims=initializer.dims, data_type=initializer.data_type)
            initializer.CopyFrom(bare)
    return kept

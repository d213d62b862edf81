"""A graph with its weights as inputs, so that they need no refit."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from dni_deploy.errors import EngineError, escape_name


def weights_as_inputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Makes a copy of a graph whose weights are inputs behind the first one.

    Args:
        model: A bundle's graph, or a lowered one, in float32 or float16; it is not changed.
        names: The initializers that become inputs, in this order, each in its type and shape.

    Raises:
        EngineError: The graph lacks one.
    """
    copy, removed = remove_initializers(model, names)
    copy.graph.input.extend(
        helper.make_tensor_value_info(name, removed[name].data_type, tuple(removed[name].dims)) for name in names
    )
    return copy


def remove_initializers(model: onnx.ModelProto, names: Sequence[str]) -> tuple[onnx.ModelProto, dict[str, TensorProto]]:
    """Takes initializers out of a graph.

    Args:
        model: The graph; it is not changed.
        names: Names of the initializers.

    Returns:
        A copy without them, and the initializers by name, those of `model`.

    Raises:
        EngineError: The graph lacks one.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    selected = set(names)
    removed = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in selected}
    missing = [name for name in names if name not in removed]
    if missing:
        raise EngineError(f"The graph has no initializer {escape_name(missing[0])!r}.")
    kept = [tensor for tensor in copy.graph.initializer if tensor.name not in selected]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy, removed

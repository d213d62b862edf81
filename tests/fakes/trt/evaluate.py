"""Runs a graph on the CPU with changing weights, by ONNX Runtime or by a function that a test supplies."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.fakes.trt.model import Model

KEPT = 24
"""Maximum number of sessions kept across all tests, because the same small graphs recur."""

_sessions: OrderedDict[tuple[str, tuple[str, ...]], Any] = OrderedDict()
_shapes: dict[tuple[str, tuple[tuple[str, tuple[int, ...]], ...]], dict[str, tuple[int, ...]]] = {}


class Evaluator:
    """The graph of one plan; `weights` are fed at every run."""

    def __init__(self, model: Model, weights: tuple[str, ...]) -> None:
        self._model, self._weights = model, weights
        self._key = (model.digest, weights)
        self.outputs = [one.name for one in model.proto.graph.output]

    def run(self, inputs: dict[str, NDArray[Any]], weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        answers = self._session().run(self.outputs, {**inputs, **weights})
        return dict(zip(self.outputs, answers, strict=True))

    def shapes(self, inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Returns the outputs' shapes from ONNX shape inference, or from a run on zeros if that fails."""
        key = (self._key[0], tuple(sorted(inputs.items())))
        if key not in _shapes:
            _shapes[key] = self._infer(inputs) or self._try(inputs)
        return _shapes[key]

    def _infer(self, inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]] | None:
        proto = onnx.ModelProto()
        proto.CopyFrom(self._model.proto)
        for one in proto.graph.input:
            if one.name in inputs:
                shape = one.type.tensor_type.shape
                shape.ClearField("dim")
                for size in inputs[one.name]:
                    shape.dim.add().dim_value = size
        for one in proto.graph.output:
            one.type.tensor_type.ClearField("shape")
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        except Exception:
            return None
        shapes_by_name = {}
        for one in inferred.graph.output:
            sizes = one.type.tensor_type.shape.dim
            if not sizes or not all(size.HasField("dim_value") for size in sizes):
                return None
            shapes_by_name[one.name] = tuple(size.dim_value for size in sizes)
        return shapes_by_name

    def _try(self, inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        kinds = {one.name: onnx.helper.tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type) for one in self._model.inputs()}
        zeros = {name: np.zeros(shape, kinds[name]) for name, shape in inputs.items()}
        answers = self.run(zeros, {name: value for name, value in self._model.values().items() if name in self._weights})
        return {name: answer.shape for name, answer in answers.items()}

    def _session(self) -> Any:
        held = _sessions.get(self._key)
        if held is None:
            held = _sessions[self._key] = _open(self._model, self._weights)
            while len(_sessions) > KEPT:
                _sessions.popitem(last=False)
        _sessions.move_to_end(self._key)
        return held


def _open(model: Model, weights: tuple[str, ...]) -> Any:
    import onnxruntime

    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    names = {one.name for one in proto.graph.input}
    for one in [one for one in proto.graph.initializer if one.name in weights]:
        if one.name not in names:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)))
        proto.graph.initializer.remove(one)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

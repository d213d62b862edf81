"""The network that the ONNX parser creates from a graph: tensors, layers, and the marked weights."""

from __future__ import annotations

from typing import Any

import onnx

from tests.fakes.trt.model import Model
from tests.fakes.trt.record import since, until
from tests.fakes.trt.values import ONNX, dims, error, trt

LAYERS = {"Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "PRelu": "PARAMETRIC_RELU", "Resize": "RESIZE"}
LAYERS |= {"InstanceNormalization": "NORMALIZATION", "Gemm": "MATRIX_MULTIPLY", "MatMul": "MATRIX_MULTIPLY", "Cast": "CAST"}


class ITensor:
    def __init__(self, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type
        self._name = info.name
        self._shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
        self._dtype = trt().DataType[ONNX[kind.elem_type]]

    @property
    def name(self) -> str:
        return self._name

    @property
    def shape(self) -> Any:
        return dims(self._shape)

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def is_shape_tensor(self) -> bool:
        return False

    @property
    def is_execution_tensor(self) -> bool:
        return True

    @property
    def is_network_input(self) -> bool:
        return True


class ILayer:
    def __init__(self, node: onnx.NodeProto) -> None:
        self._node = node

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def type(self) -> Any:
        return trt().LayerType[LAYERS.get(self._node.op_type, "ELEMENTWISE")]

    @property
    @until(10)
    def precision_is_set(self) -> bool:
        return False

    @property
    def num_inputs(self) -> int:
        return len(self._node.input)

    @property
    def num_outputs(self) -> int:
        return len(self._node.output)


class INetworkDefinition:
    def __init__(self, flags: int, logger: Any) -> None:
        self._flags, self._logger = flags, logger
        self._model: Model | None = None
        self._marked: set[str] = set()

    def _names(self) -> set[str]:
        return set() if self._model is None else set(self._model.weights)

    @property
    def name(self) -> str:
        return "" if self._model is None else self._model.proto.graph.name

    @property
    def num_inputs(self) -> int:
        return 0 if self._model is None else len(self._model.inputs())

    @property
    def num_outputs(self) -> int:
        return 0 if self._model is None else len(self._model.proto.graph.output)

    @property
    def num_layers(self) -> int:
        return 0 if self._model is None else len(self._model.proto.graph.node)

    @property
    @since(10)
    def flags(self) -> int:
        return self._flags

    @since(10)
    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    def get_input(self, index: int) -> Any:
        assert self._model is not None
        return trt().ITensor(self._model.inputs()[index])

    def get_output(self, index: int) -> Any:
        assert self._model is not None
        return trt().ITensor(self._model.proto.graph.output[index])

    def get_layer(self, index: int) -> Any:
        assert self._model is not None
        return trt().ILayer(self._model.proto.graph.node[index])

    def __len__(self) -> int:
        return self.num_layers

    def __getitem__(self, index: int) -> Any:
        return self.get_layer(index)

    @since(10)
    def mark_weights_refittable(self, name: str) -> bool:
        if name not in self._names():
            error(self._logger, f"markWeightsRefittable: there are no weights named {name}")
            return False
        self._marked.add(name)
        return True

    @since(10)
    def unmark_weights_refittable(self, name: str) -> bool:
        if name not in self._marked:
            return False
        self._marked.remove(name)
        return True

    @since(10)
    def are_weights_marked_refittable(self, name: str) -> bool:
        return name in self._marked

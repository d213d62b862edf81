"""Small networks as graphs without PyTorch, built value by value, for what moves channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE_PX = 8
SHAPE = (1, 3, SIDE_PX, SIDE_PX)

Tensors = dict[str, NDArray[Any]]


class ChannelGraph:
    """x, float32 (1, 3, 8, 8) -> ... -> y; weights are drawn from the seed."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: Tensors = {}
        self.constants: list[TensorProto] = []
        self.channels = {"x": 3}

    def weight(self, name: str, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        self.weights[name] = (self.random.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
        return name

    def constant(self, value: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: Sequence[str], channels: int | None = None, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op}{len(self.nodes)}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        for name in names:
            self.channels[name] = self.channels[inputs[0]] if channels is None else channels
        return names[0] if outputs == 1 else names

    def conv(self, x: str, out: int, *, group: int = 1, kernel: int = 3, weight: str = "") -> str:
        name = weight or f"conv{len(self.nodes)}"
        if f"{name}.weight" not in self.weights:
            self.weight(f"{name}.weight", out, self.channels[x] // group, kernel, kernel)
            self.weight(f"{name}.bias", out)
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        return str(self.node("Conv", inputs, out, group=group, pads=[kernel // 2] * 4))

    def batch_norm(self, x: str) -> str:
        names = [f"bn{len(self.nodes)}.{part}" for part in ("weight", "bias", "mean", "var")]
        for name in names:
            self.weight(name, self.channels[x])
        self.weights[names[-1]] = np.abs(self.weights[names[-1]]) + np.float32(0.5)
        return str(self.node("BatchNormalization", [x, *names]))

    def prelu(self, x: str) -> str:
        return str(self.node("PRelu", [x, self.weight(f"prelu{len(self.nodes)}.weight", self.channels[x], 1, 1)]))

    def model(self, last: str, sides: Sequence[int | str] = SHAPE[2:]) -> onnx.ModelProto:
        """The graph as a bundle has it, with all shapes that can be inferred."""
        nodes = [*self.nodes, helper.make_node("Identity", [last], ["y"])]
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [*SHAPE[:2], *sides])
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        tensors = [*(numpy_helper.from_array(value, name) for name, value in self.weights.items()), *self.constants]
        graph = helper.make_graph(nodes, "channels", [image], [result], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(inferred, full_check=True)
        return inferred

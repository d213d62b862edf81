"""Small .onnx and ncnn files as other tools write them."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

FLOAT16_TAG = 0x01306B47


def export_onnx(net: nn.Module, path: Path, *, channels: int = 3, opset: int = 17, is_dynamic: bool = True) -> Path:
    """Writes a network as PyTorch's former exporter does, which most public files come from."""
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), (torch.rand(1, channels, 32, 32),), str(path), dynamo=False, opset_version=opset,
            input_names=["input"], output_names=["output"],
            dynamic_axes={"input": axes, "output": axes} if is_dynamic else None,
        )  # fmt: skip
    return path


def scramble_names(path: Path, seed: int) -> None:
    """Renames every node, tensor and initializer of a file, and puts the initializers into another order."""
    model = onnx.load(str(path))
    rng = np.random.default_rng(seed)
    names: dict[str, str] = {"": ""}

    def rename(name: str) -> str:
        return names.setdefault(name, f"t{rng.integers(1 << 40)}")

    for node in model.graph.node:
        node.name = f"n{rng.integers(1 << 40)}"
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = rename(value.name)
    del model.graph.value_info[:]
    order = rng.permutation(len(model.graph.initializer))
    initializers = [model.graph.initializer[index] for index in order]
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in initializers]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)
    onnx.save(model, str(path))


def make_conv_model(
    seed: int = 0,
    change: Callable[[onnx.ModelProto], None] | None = None,
    *,
    opset: int = 17,
    sizes: Sequence[int | str] = ("n", 3, "h", "w"),
) -> onnx.ModelProto:
    """x -> Conv -> Relu -> Mul by a scalar -> Conv -> Add x."""
    rng = np.random.default_rng(seed)

    def tensor(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) * 0.2, name)

    nodes = [
        helper.make_node("Conv", ["image", "first.weight", "first.bias"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Mul", ["b", "gain"], ["c"], "gain_of_features"),
        helper.make_node("Conv", ["c", "second.weight", "second.bias"], ["d"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["d", "image"], ["result"], "skip"),
    ]
    initializers = [
        tensor("first.weight", 4, 3, 3, 3), tensor("first.bias", 4), tensor("second.weight", 3, 4, 3, 3), tensor("second.bias", 3),
        numpy_helper.from_array(np.float32(0.5), "gain"),
    ]  # fmt: skip
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, list(sizes))
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, list(sizes))
    graph = helper.make_graph(nodes, "conv", [image], [result], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if change is not None:
        change(model)
    return model


def write_model(path: Path, *arguments: Any, **options: Any) -> Path:
    """Writes what make_conv_model makes."""
    path.write_bytes(make_conv_model(*arguments, **options).SerializeToString())
    return path


def write_ncnn(path: Path, layers: Sequence[str], weights: Sequence[tuple[NDArray[Any], str]]) -> Path:
    """Writes a .param with these lines, and a .bin with these arrays, each as "float16", "float32" or, untagged, "plain"."""
    blobs = {name for line in layers for name in line.split()[4 : 4 + sum(map(int, line.split()[2:4]))]}
    path.write_text("\n".join(["7767517", f"{len(layers)} {len(blobs)}", *layers]) + "\n")
    data = b""
    for array, storage in weights:
        if storage == "float16":
            half = np.asarray(array, "<f2").tobytes()
            data += struct.pack("<I", FLOAT16_TAG) + half + b"\0" * (-len(half) % 4)
        else:
            data += (struct.pack("<I", 0) if storage == "float32" else b"") + np.asarray(array, "<f4").tobytes()
    path.with_suffix(".bin").write_bytes(data)
    return path

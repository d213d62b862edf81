"""Pico bundle: a hand-made graph of convolution, BatchNorm and PReLU, and a family of two or three that fits it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.signature import Signature

SIGNATURE = Signature(input_channels=1, output_channels=2, radius=1)
SHAPES = {
    "conv.weight": (2, 1, 3, 3),
    "conv.bias": (2,),
    "bn.weight": (2,),
    "bn.bias": (2,),
    "bn.running_mean": (2,),
    "bn.running_var": (2,),
    "prelu.weight": (2, 1, 1),
    "spare.weight": (3,),
}
USED = tuple(name for name in SHAPES if name != "spare.weight")


def tensors(seed: int, dtype: Any = np.float32) -> dict[str, NDArray[Any]]:
    """Returns the checkpoint of one member: small exact decimals, variances in 0.5 to 1.5, and one integer buffer."""
    random = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for name, shape in SHAPES.items():
        values = random.integers(-64, 65, shape) / 128
        arrays[name] = (values + 1 if name.endswith("running_var") else values).astype(dtype)
    arrays["bn.num_batches_tracked"] = np.array(7, np.int64)
    return arrays


def graph(opset: int = 17) -> onnx.ModelProto:
    """x (1, 1, H, W) -> Conv -> BatchNormalization -> PRelu -> y; weights are named by state-dict keys and have values of no member."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"], ["n"]),
        helper.make_node("PRelu", ["n", "prelu.weight"], ["p"]),
        helper.make_node("Mul", ["p", "half"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.ones(SHAPES[name], np.float32), name) for name in USED]
    constant = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    described = helper.make_graph(
        nodes,
        "pico",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, "H", "W"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2, "H", "W"])],
        [*weights, constant],
    )
    return helper.make_model(described, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="pico")


def family(count: int = 2, dtype: Any = np.float32, **changed: dict[str, NDArray[Any]]) -> Family:
    """Returns members a, b, c with seeds 0, 1, 2; `a={"conv.bias": ...}` changes tensors of member a."""
    members = {}
    for seed, name in enumerate("abc"[:count]):
        checkpoint = Checkpoint.from_state_dict({**tensors(seed, dtype), **changed.get(name, {})})
        members[name] = replace(checkpoint, source=f"/home/somebody/{name}.pth", sha256=f"{seed}" * 64)
    return Family.from_checkpoints(members)


def write(path: Path, *, force: bool = False, count: int = 2, dtype: Any = np.float32, **changed: Any) -> Bundle:
    """Writes the bundle of `graph` and `family` to that path."""
    facts = {"torch": "none", "probe_error": 0.0}
    members = family(count, dtype, **changed)
    return write_bundle(path, graph(), members, SIGNATURE, architecture="pico", graph_facts=facts, force=force)

"""Served bundle: a network that multiplies an image by the members' factor and by a control."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.network_controls import Control
from dni_deploy.signature import Signature

FACTORS = {"same": 1.0, "half": 0.5, "none": 0.0}
GAIN = Control("gain", 0.1, 1.7, 1.0)


def write(path: Path, members: int = 2, multiple: int = 1) -> Bundle:
    """Writes a bundle of the first two or three members of FACTORS."""
    eye = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    weights = {"conv.weight": eye, GAIN.weight_name: np.array([GAIN.stored], np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"]),
        helper.make_node("Mul", ["c", GAIN.weight_name], ["y"]),
    ]
    described = helper.make_graph(
        nodes,
        "served",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, "H", "W"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    graph = helper.make_model(described, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="served")
    family = Family.from_checkpoints(
        {
            name: Checkpoint.from_state_dict({**weights, "conv.weight": eye * np.float32(factor)})
            for name, factor in list(FACTORS.items())[:members]
        }
    )
    signature = Signature(radius=0, multiple=multiple, controls=(GAIN,))
    return write_bundle(path, graph, family, signature, architecture="served", graph_facts={})

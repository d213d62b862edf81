"""Pipe bundle: a network that multiplies a frame by the members' factor, 1 or 0.5, and may double its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.signature import Signature

MEMBERS = ("same", "half")
FACTORS = {"same": 1.0, "half": 0.5}


def write(path: Path, scale: int = 1, names: tuple[str, str] = MEMBERS, channels: int = 3) -> Bundle:
    """Writes a bundle of two members with these names.

    A 1x1 convolution from `channels` to channels * scale^2, then DepthToSpace: every pixel becomes scale x scale equal ones.
    """
    copies = scale * scale
    eye = np.repeat(np.eye(channels, dtype=np.float32), copies, axis=0).reshape(channels * copies, channels, 1, 1)
    batch = 1 if channels == 3 else "N"
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"]),
        helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=scale, mode="CRD"),
    ]
    described = helper.make_graph(
        nodes,
        "dimmer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, channels, "H", "W"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, channels, "OH", "OW"])],
        [numpy_helper.from_array(np.ones_like(eye), "conv.weight")],
    )
    graph = helper.make_model(described, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="dimmer")
    family = Family.from_checkpoints(
        {
            name: Checkpoint.from_state_dict({"conv.weight": eye * np.float32(FACTORS[member])})
            for name, member in zip(names, MEMBERS, strict=True)
        }
    )
    signature = Signature(channels, channels, radius=0, scale=scale)
    facts = {"torch": "none", "probe_error": 0.0}
    return write_bundle(path, graph, family, signature, architecture="dimmer", graph_facts=facts)

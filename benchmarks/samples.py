"""Videos and bundles to measure with, made from the shipped photograph and from random weights."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import onnx
from onnx import helper, numpy_helper

from dni_deploy.api.export import export
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.imaging.image_file import read_image
from dni_deploy.signature import Signature

ROOT = Path(__file__).resolve().parent.parent


def write_video(path: Path, width: int, height: int, rate: int, count: int = 120) -> None:
    """Writes a pan over the photograph, encoded for cheap decoding."""
    photograph = read_image(ROOT / "dni_deploy" / "data" / "astronaut.png").rgb
    wide = np.tile(photograph, (1 + height // photograph.shape[0], 2 + width // photograph.shape[1], 1))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 4_000_000
        for index in range(count):
            left = index * 2 % photograph.shape[1]
            frame = np.ascontiguousarray(wide[:height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_identity_bundle(path: Path) -> None:
    """Writes a bundle of a single 1x1 convolution: member `same` is the identity, `dark` halves the image."""
    weight = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "conv.weight"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, "H", "W"])],
        [numpy_helper.from_array(weight, "conv.weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    members = {
        name: Checkpoint.from_state_dict({"conv.weight": weight * factor}) for name, factor in (("same", 1.0), ("dark", 0.5))
    }
    facts = {"torch": "none", "probe_error": 0.0}
    write_bundle(path, model, Family.from_checkpoints(members), Signature(radius=0), architecture="identity", graph_facts=facts)


def write_compact_bundle(path: Path, width: int, depth: int, scale: int) -> None:
    """Writes a bundle of two Compact networks with random weights; speed does not depend on training."""
    import torch
    from safetensors.torch import save_file

    from exporters.architectures.compact import SRVGGNetCompact

    files = {}
    for number in range(2):
        torch.manual_seed(0)
        state = SRVGGNetCompact(width=width, depth=depth, scale=scale).state_dict()
        torch.manual_seed(number + 1)
        moved = {key: (value + 0.01 * torch.randn_like(value)).contiguous() for key, value in state.items()}
        files[f"m{number}"] = path.with_name(f"m{number}.safetensors")
        save_file(moved, files[f"m{number}"])
    export(files, path)

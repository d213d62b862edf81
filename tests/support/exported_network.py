"""Pico networks as exported graphs, for the tests of exporters."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from dni_deploy.signature import Signature
from exporters.architectures.registry import find_architecture
from exporters.cache import export_graph_cached
from exporters.export_graph import ExportedGraph
from tests.support.pico_architectures import pico_state

ROUNDING = 1e-5  # float32 on both sides, sums in another order; InstanceNorm reaches 5e-6


def export_pico(name: str, opset: int = 18) -> tuple[ExportedGraph, nn.Module, Signature]:
    """Exports a pico network, through the cache; returns its graph, the module and the signature."""
    state = pico_state(name)
    architecture = find_architecture("auto", state)
    net = architecture.build(state)
    signature = architecture.resolve_signature(net)
    return export_graph_cached(architecture.name, net, signature, opset=opset)[0], net, signature


def run_graph(graph: onnx.ModelProto, x: Tensor) -> np.ndarray:
    """Runs a graph in ONNX Runtime."""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {"x": x.numpy()})[0]
    return output


def seeded_input(*shape: int) -> Tensor:
    """Draws an input in 0..1, the same each time."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))

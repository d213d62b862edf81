"""Exports the networks' graphs and computes their outputs, in PyTorch and float64. Needs PyTorch, on any machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks.gpu.prepared import REFERENCE_ALPHAS, PreparedNetwork, random_input
from benchmarks.gpu.random_weights import State, digest_states, make_random_family
from benchmarks.networks import NETWORKS
from dni_deploy.blending.blend import blend_float64
from dni_deploy.signature import Signature
from dni_deploy.utils import onnx_weights
from exporters.architectures.registry import find_architecture
from exporters.cache import export_graph_cached

EXPORT_OPSET = 17
"""The newest opset that TensorRT 8.6 supports."""
REFERENCE_SIDE_PX = 64
WEIGHTS_SEED = 20181126
"""Seed of the weights: the date of the paper's first version."""


def prepare(
    folder: Path, name: str, *, title: str | None = None, build: Callable[[], nn.Module] | None = None
) -> PreparedNetwork:
    """Writes the network's three files; `name` is one of NETWORKS, or `title` and `build` describe another one."""
    title = NETWORKS[name].title if title is None else title
    net = (NETWORKS[name].build if build is None else build)()
    tensors = {key: value.numpy() for key, value in net.state_dict().items()}
    architecture = find_architecture("auto", tensors)
    signature = architecture.resolve_signature(net)
    lifted, _ = export_graph_cached(architecture.name, net, signature, opset=EXPORT_OPSET)
    graph = onnx.ModelProto()
    graph.CopyFrom(lifted.graph)
    for initializer in onnx_weights.find_weight_initializers(graph, lifted.names):
        onnx_weights.strip_initializer(initializer)
    shapes = {key: tensors[key].shape for key in lifted.names}
    states = make_random_family(shapes, seed=WEIGHTS_SEED)
    prepared = PreparedNetwork(name, title, architecture.name, signature, WEIGHTS_SEED, shapes, digest_states(states), graph)
    prepared.save(folder, _compute_reference(net, signature, states))
    return prepared


def _compute_reference(net: nn.Module, signature: Signature, states: Mapping[str, State]) -> dict[str, np.ndarray]:
    """Computes the input and, per REFERENCE_ALPHAS, the float64 network's output with float64-blended weights, in float32."""
    net = net.double().eval()
    x = random_input(signature, (1, signature.input_channels, REFERENCE_SIDE_PX, REFERENCE_SIDE_PX), WEIGHTS_SEED)
    outputs = {"x": x}
    for name, coefficients in REFERENCE_ALPHAS.items():
        blended = blend_float64(list(states.values()), np.array(coefficients))
        net.load_state_dict({key: torch.from_numpy(value) for key, value in blended.items()}, strict=False)
        with torch.inference_mode():
            outputs[name] = net(torch.from_numpy(x).double()).numpy().astype(np.float32)
    return outputs

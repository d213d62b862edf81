"""Prepare: export the networks' graphs and compute what they should give, in PyTorch and float64. Needs torch, on any machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks.gpu.prepared import ALPHAS, Prepared, random_input
from benchmarks.gpu.random_weights import State, digest, family
from benchmarks.networks import NETWORKS
from dni_deploy.blending.blend import blend_float64
from dni_deploy.signature import Signature
from dni_deploy.utils import onnx_weights
from exporters.architectures import find
from exporters.cache import cached_lift

OPSET = 17
"""The newest that TensorRT 8.6 reads."""
SIDE = 64
SEED = 20181126
"""Of the weights: the day of the paper's first version."""


def prepare(folder: Path, name: str, *, title: str | None = None, build: Callable[[], nn.Module] | None = None) -> Prepared:
    """Write the network's three files. name is one of NETWORKS, or `title` and `build` tell of another."""
    title = NETWORKS[name].title if title is None else title
    net = (NETWORKS[name].build if build is None else build)()
    tensors = {key: value.numpy() for key, value in net.state_dict().items()}
    architecture = find("auto", tensors)
    signature = architecture.signature(net)
    lifted, _ = cached_lift(architecture.name, net, signature, opset=OPSET)
    graph = onnx.ModelProto()
    graph.CopyFrom(lifted.graph)
    for initializer in onnx_weights.weight_initializers(graph, lifted.names):
        onnx_weights.strip(initializer)
    shapes = {key: tensors[key].shape for key in lifted.names}
    states = family(shapes, seed=SEED)
    prepared = Prepared(name, title, architecture.name, signature, SEED, shapes, digest(states), graph)
    prepared.save(folder, _expected(net, signature, states))
    return prepared


def _expected(net: nn.Module, signature: Signature, states: Mapping[str, State]) -> dict[str, np.ndarray]:
    """The input and, for each of ALPHAS, the output of the float64 network with float64-blended weights, rounded to float32."""
    net = net.double().eval()
    x = random_input(signature, (1, signature.input_channels, SIDE, SIDE), SEED)
    outputs = {"x": x}
    for name, shares in ALPHAS.items():
        blended = blend_float64(list(states.values()), np.array(shares))
        net.load_state_dict({key: torch.from_numpy(value) for key, value in blended.items()}, strict=False)
        with torch.inference_mode():
            outputs[name] = net(torch.from_numpy(x).double()).numpy().astype(np.float32)
    return outputs

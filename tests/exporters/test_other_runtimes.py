"""Exported graphs are read by other runtimes than the one that verifies them. Skipped where they are not installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dni_deploy.signature import Signature
from exporters.export_graph import export_graph
from tests.support.exported_network import ROUNDING, export_pico, seeded_input


def run_openvino(model: bytes, x: np.ndarray) -> np.ndarray:
    openvino: Any = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model=model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    output: np.ndarray = compiled([x])[0]
    return output


@pytest.mark.parametrize("name", ["compact", "unshuffle"])
def test_openvino_computes_what_pytorch_does(name: str) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    torch.manual_seed(0)
    if name == "compact":
        exported, net, _ = export_pico(name)
    else:
        net = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 12, 1), nn.PixelShuffle(2)).eval().requires_grad_(False)
        exported = export_graph(net, Signature(multiple=2))
    x = seeded_input(1, 3, 20, 28)
    expected = net(x).numpy()
    assert (
        np.abs(run_openvino(exported.graph.SerializeToString(), x.numpy()) - expected).max()
        <= ROUNDING * np.abs(expected).max()
    )

"""Operators that are translated here compute what PyTorch's do, in graphs that every runtime reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dni_deploy.signature import Signature
from exporters.export_graph import export_graph
from tests.support.exported_network import run_graph, seeded_input


class UnshuffleAndSort(nn.Module):
    """Sorts the columns of each row by whole numbers with many ties, after a pixel unshuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        blocks = nn.functional.pixel_unshuffle(x, 2) * self.gain
        values, order = torch.sort((blocks * 3).long(), dim=-1, descending=True, stable=True)
        return nn.functional.pixel_shuffle(torch.gather(blocks, -1, order) + values, 2)


@pytest.mark.slow
def test_pixel_unshuffle_and_stable_sort() -> None:
    torch.manual_seed(0)
    net = UnshuffleAndSort().eval().requires_grad_(False)
    graph = export_graph(net, Signature(multiple=2)).graph
    operators = [node.op_type for node in graph.graph.node]
    assert operators[0] == "Conv"
    assert "Reshape" not in operators
    assert graph.ir_version == 8  # the lowest for opset 18
    for shape in ((1, 3, 14, 18), (2, 3, 20, 10)):
        x = seeded_input(*shape)
        np.testing.assert_array_equal(run_graph(graph, x), net(x).numpy())

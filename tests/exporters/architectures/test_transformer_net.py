"""TransformerNet: the residual blocks are counted, and statistics that InstanceNorm never reads are dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dni_deploy.errors import MismatchError
from exporters.architectures.transformer_net import ARCHITECTURE, TransformerNet


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_blocks_are_counted_and_old_statistics_dropped(blocks: int) -> None:
    net = TransformerNet(3, (2, 3, 4), blocks, 5).eval()
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    old = {**state, "in1.running_mean": np.zeros(2, np.float32), "in5.running_var": np.ones(2, np.float32)}
    assert list(ARCHITECTURE.canonicalize_tensors(old)) == list(state)
    rebuilt = ARCHITECTURE.build(old)
    assert isinstance(rebuilt, TransformerNet)
    assert rebuilt.blocks == blocks
    x = 255 * torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rebuilt(x), net(x))


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(MismatchError, match="a kernel of 8 is not odd"):
        ARCHITECTURE.infer_hyperparameters({"conv1.conv2d.weight": (2, 3, 8, 8)})

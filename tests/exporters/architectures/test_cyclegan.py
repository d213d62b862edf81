"""CycleGAN: dropout moves the second convolution of a block."""

from __future__ import annotations

import pytest
import torch

from exporters.architectures.cyclegan import ResnetGenerator
from exporters.architectures.registry import find_architecture


def example(shape: tuple[int, ...], seed: int = 5) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_cyclegan_blocks_with_dropout_have_their_second_convolution_one_further(dropout: bool, batch_norm: bool) -> None:
    net = ResnetGenerator(3, 2, 2, batch_norm=batch_norm, dropout=dropout).eval()
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    assert ("model.10.conv_block.6.weight" in state) == (dropout or batch_norm)
    x = example((1, 3, 16, 20)) * 2 - 1
    assert torch.equal(find_architecture("auto", state).build(state)(x), net(x))

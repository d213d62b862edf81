"""DCGAN: the number of layers gives the side of the image."""

from __future__ import annotations

import pytest
import torch

from dni_deploy.errors import MismatchError
from exporters.architectures.dcgan import ARCHITECTURE, DCGANGenerator


@pytest.mark.parametrize("widths", [(4,), (5, 4), (6, 5, 4)])
def test_each_layer_doubles_the_side(widths: tuple[int, ...]) -> None:
    net = DCGANGenerator(3, widths, 2).eval()
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    rebuilt = ARCHITECTURE.build(state)
    assert rebuilt.signature == net.signature
    z = torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    assert rebuilt(z).shape == (2, 2, 4 * 2 ** len(widths), 4 * 2 ** len(widths))
    assert torch.equal(rebuilt(z), net(z))


def test_a_last_layer_at_another_position_is_refused() -> None:
    with pytest.raises(MismatchError, match="position 4 is none of 3, 6, 9"):
        ARCHITECTURE.infer_hyperparameters({"main.0.weight": (3, 4, 4, 4), "main.4.weight": (4, 2, 4, 4)})

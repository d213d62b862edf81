"""SRCNN: kernels and names follow from the file, and what another network may be is refused."""

from __future__ import annotations

import pytest
import torch

from dni_deploy.errors import MismatchError
from exporters.architectures.srcnn import ARCHITECTURE, SRCNN


@pytest.mark.parametrize("kernels", [(9, 1, 5), (9, 5, 9), (5, 3, 3)])
@pytest.mark.parametrize("names", [("conv1", "conv2", "conv3"), ("model.0", "model.2", "model.4")])
def test_a_network_is_rebuilt_under_its_own_names(kernels: tuple[int, int, int], names: tuple[str, ...]) -> None:
    net = SRCNN(1, (4, 3), kernels, output_channels=2, names=names).eval()
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    rebuilt = ARCHITECTURE.build(state)
    assert list(rebuilt.state_dict()) == list(state)
    assert rebuilt.signature == net.signature
    x = torch.rand(1, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rebuilt(x), net(x))


@pytest.mark.parametrize("kernels", [(3, 3, 3), (8, 5, 5)])
def test_kernels_that_another_network_may_have_are_refused(kernels: tuple[int, int, int]) -> None:
    shapes = {f"conv{number}.weight": (4, 4, kernel, kernel) for number, kernel in enumerate(kernels, 1)}
    with pytest.raises(MismatchError, match="not odd with a first one of 5 or more"):
        ARCHITECTURE.infer_hyperparameters(shapes)

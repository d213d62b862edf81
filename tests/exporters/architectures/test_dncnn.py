"""DnCNN: epsilon and biases follow from the file's names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dni_deploy.errors import MismatchError
from exporters.architectures.architecture import Architecture
from exporters.architectures.dncnn import DnCNN
from exporters.architectures.registry import ARCHITECTURES, find_architecture
from tests.exporters.architectures import public_names as public
from tests.support.pico_architectures import pico_state


def known(name: str) -> Architecture:
    return next(architecture for architecture in ARCHITECTURES if architecture.name == name)


def example(shape: tuple[int, ...], seed: int = 5) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def proposed(name: str, shapes: public.Shapes) -> nn.Module:
    with torch.device("meta"):
        return known(name).infer_hyperparameters(shapes)


@pytest.mark.parametrize(
    ("pico", "eps"),
    [("dncnn_bn", 1e-5), ("dncnn_bn_kair", 1e-4), ("dncnn_bn_port", 1e-5)],
)
def test_dncnn_eps_follows_whose_file_it_is(pico: str, eps: float) -> None:
    state = pico_state(pico)
    norms = [module for module in find_architecture("auto", state).build(state).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {module.eps for module in norms} == {eps}
    only_first = DnCNN(1, 4, 4, prefix="dncnn", biases=(True, False), eps=1e-4).state_dict()
    net = proposed("dncnn", {key: tuple(value.shape) for key, value in only_first.items()})
    assert {module.eps for module in net.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-4}


def test_dncnn_without_any_bias() -> None:
    net = DnCNN(3, 4, 4, batch_norm=False, inner_bias=False, biases=(False, False)).eval()
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    assert list(state) == [f"model.{place}.weight" for place in (0, 2, 4, 6)]
    x = example((1, 3, 9, 8))
    assert torch.equal(find_architecture("auto", state).build(state)(x), net(x))


def test_three_small_convolutions_are_a_dncnn_and_a_large_first_kernel_is_an_srcnn() -> None:
    def sequential(*kernels: int) -> dict[str, np.ndarray]:
        ends = (3, 4, 4, 3)
        return {
            f"model.{2 * number}.{part}": np.zeros(
                (ends[number + 1], ends[number], kernel, kernel)[: 4 if part == "weight" else 1]
            )
            for number, kernel in enumerate(kernels)
            for part in ("weight", "bias")
        }

    assert find_architecture("auto", sequential(3, 3, 3)).name == "dncnn"
    assert find_architecture("auto", sequential(9, 1, 5)).name == "srcnn"
    with pytest.raises(MismatchError):
        find_architecture("auto", sequential(3, 5, 3))

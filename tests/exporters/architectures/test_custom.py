"""Custom: a user's network by name, its signature carried or measured, and each way of getting the name wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dni_deploy.errors import MismatchError, UsageError
from dni_deploy.signature import Signature
from exporters.architectures.custom import load_custom_architecture
from exporters.architectures.registry import find_architecture

MODULE = """
import torch
from dni_deploy.signature import Signature

class Doubler(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 12, 3, padding=1)
        self.register_buffer("index", torch.tensor([3, 1, 2]))
    def forward(self, x):
        return torch.nn.functional.pixel_shuffle(self.conv(x[:, self.index - 1]), 2)

def plain():
    return Doubler()

def described():
    return Doubler()
described.signature = Signature(scale=2, low=-1.0, radius=1)

def broken():
    raise RuntimeError("no such luck")

def wrong():
    return "a string"

number = 7

class Names:
    @staticmethod
    def make():
        return Doubler()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, which is not on sys.path (as under an installed command)."""
    name = "my_own_network"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield name
    sys.modules.pop(name, None)


def state(module: str) -> dict[str, np.ndarray]:
    net = load_custom_architecture(f"{module}:plain").infer_hyperparameters({})
    return {key: value.detach().numpy() for key, value in net.state_dict().items()}


def test_a_network_from_a_module_in_the_current_folder(module: str) -> None:
    before = list(sys.path)
    tensors = state(module)
    tensors["index"] = np.array([1, 2, 3])  # an integer buffer is loaded as it is
    architecture = find_architecture(f"{module}:plain", tensors)
    assert sys.path == before
    net = architecture.build(tensors)
    assert net.state_dict()["index"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(net.state_dict()["conv.weight"].numpy(), tensors["conv.weight"])
    assert architecture.resolve_signature(net) == Signature(scale=2)
    assert architecture.name == f"{module}:plain"


def test_a_signature_may_be_carried_by_the_factory_or_the_network(module: str) -> None:
    tensors = state(module)
    architecture = find_architecture(f"{module}:described", tensors)
    assert architecture.resolve_signature(architecture.build(tensors)) == Signature(scale=2, low=-1.0, radius=1)
    assert find_architecture(f"{module}:Names.make", tensors).build(tensors)(torch.rand(1, 3, 4, 4)).shape == (1, 3, 8, 8)


def test_a_network_of_your_own_that_does_not_fit_says_the_first_difference(module: str) -> None:
    with pytest.raises(MismatchError, match=r"'conv.bias' has shape \(9,\) instead of \(12,\)"):
        find_architecture(f"{module}:plain", {**state(module), "conv.bias": np.zeros(9, np.float32)})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:", "does not have the form package.module:factory"),
        (":plain", "does not have the form"),
        ("{}:missing", "has no 'missing'"),
        ("{}:number", "is a int, not a function"),
        ("{}:broken", "failed: RuntimeError: no such luck"),
        ("{}:wrong", "gave a str instead of a torch.nn.Module"),
        ("no_such_module_here:make", "cannot be imported: ModuleNotFoundError"),
        ("..:make", "cannot be imported"),
    ],
)
def test_each_wrong_name_is_one_sentence(module: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_architecture(name.format(module), {})

"""Spandrel: the networks that it knows and we do not, and agreement where both know one. Skipped where it is not installed."""

from __future__ import annotations

import copy
import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from dni_deploy.errors import MismatchError, UnavailableError
from dni_deploy.signature import Signature
from exporters.architectures.registry import find_architecture
from exporters.architectures.rrdbnet import BASICSR_NAMING, ESRGAN_NAMING, Naming, RRDBNet, make_old_esrgan_naming
from tests.support.pico_architectures import PICO, pico_net, pico_state
from tests.support.torchvision_stub import import_spandrel


@pytest.fixture(scope="module")
def spandrel() -> ModuleType:
    try:
        return import_spandrel()
    except ModuleNotFoundError as error:
        pytest.skip(f"spandrel is not installed: {error}")


def test_a_network_that_only_spandrel_knows(spandrel: ModuleType) -> None:
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    options = {"depths": [2, 2], "embed_dim": 12, "num_heads": [2, 2], "mlp_ratio": 2, "window_size": 8, "img_size": 64}
    original = SwinIR(upscale=2, upsampler="pixelshuffledirect", **options).eval().requires_grad_(False)
    state = {key: value.numpy().copy() for key, value in original.state_dict().items()}
    architecture = find_architecture("auto", state)
    net = architecture.build(state)
    x = torch.rand(1, 3, 16, 24)
    assert architecture.name == "spandrel.SwinIR"
    assert architecture.resolve_signature(net) == Signature(scale=2, minimum=16)
    assert torch.equal(net(x), original(x))
    assert list(architecture.canonicalize_tensors(state)) == list(state)

    other = {key: value * np.float32(1.1) if value.dtype.kind == "f" else value for key, value in state.items()}
    expected = copy.deepcopy(original)
    expected.load_state_dict({key: torch.tensor(value) for key, value in other.items()})
    assert torch.equal(architecture.build(other)(x), expected(x))  # not the first member's weights
    assert torch.equal(net(x), original(x))


CALLED_THROUGH_A_FUNCTION = {
    "MixDehazeNet": {"embed_dims": [12, 24, 48, 24, 12], "depths": [1, 1, 1, 1, 1]},  # scales its output
    "MMRealSR": {"num_in_ch": 3, "num_out_ch": 3, "num_block": 1, "num_feat": 16, "num_grow_ch": 8,
                 "num_feats": [8, 16, 24, 32], "num_blocks": [1, 1, 1, 1]},  # gives a tuple
    "DRUNet": {"in_nc": 4, "out_nc": 3, "nc": [8, 16, 24, 32], "nb": 2},  # takes a noise map, which is a control here
}  # fmt: skip


@pytest.mark.parametrize("name", CALLED_THROUGH_A_FUNCTION)
def test_the_network_computes_what_the_descriptor_does(spandrel: ModuleType, name: str) -> None:
    torch.manual_seed(0)
    network_class = getattr(importlib.import_module(f"spandrel.architectures.{name}"), name)
    state = {
        key: value.detach().numpy() for key, value in network_class(**CALLED_THROUGH_A_FUNCTION[name]).state_dict().items()
    }
    architecture = find_architecture("auto", state)
    names = [key for key in architecture.build(state).state_dict() if not key.startswith("controls.")]
    assert names == list(state)  # no name is prefixed
    other = {key: value * np.float32(1.1) if value.dtype.kind == "f" else value for key, value in state.items()}
    x = torch.rand(2, 3, 40, 48)
    for tensors in (state, other):
        descriptor = spandrel.ModelLoader().load_from_state_dict({key: torch.tensor(value) for key, value in tensors.items()})
        with torch.no_grad():
            output = architecture.build(tensors)(x)
            for image, each in zip(x, output, strict=True):
                difference = (each.clamp(0, 1) - descriptor(image[None])[0]).abs().max()
                assert difference < 1e-5, name  # a batch of two is summed in another order than one image


@pytest.mark.parametrize(("square", "message"), [(True, "takes square images alone"), (False, "takes a mask")])
def test_what_takes_no_frames_is_refused(
    spandrel: ModuleType, square: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = SimpleNamespace(architecture=SimpleNamespace(name="Uformer"), size_requirements=SimpleNamespace(square=square))
    if square:
        monkeypatch.setattr(spandrel, "ImageModelDescriptor", SimpleNamespace)
    monkeypatch.setattr("exporters.architectures.spandrel._load_model", lambda state: descriptor)
    with pytest.raises(MismatchError, match=f"Uformer, through spandrel, {message}"):
        find_architecture("spandrel", {"weight": np.zeros(1, np.float32)})


def naming(style: str) -> Naming:
    return {"new": BASICSR_NAMING, "middle": ESRGAN_NAMING, "old": make_old_esrgan_naming(1, 2)}[style]


@pytest.mark.parametrize(("style", "unshuffle"), [("new", 1), ("new", 2), ("middle", 1), ("old", 1)])
def test_our_rrdbnet_is_theirs(spandrel: ModuleType, style: str, unshuffle: int) -> None:
    torch.manual_seed(1)
    net = RRDBNet(3, 64, 1, 32, unshuffle=unshuffle, naming=naming(style)).eval().requires_grad_(False)
    state = {key: value.numpy().copy() for key, value in net.state_dict().items()}
    theirs = find_architecture("spandrel", state)
    renamed = theirs.canonicalize_tensors(state)
    assert sorted(value.sum() for value in renamed.values()) == sorted(value.sum() for value in state.values())
    x = torch.rand(1, 3, 12, 16)
    assert torch.equal(theirs.build(state)(x), net(x))
    signature = theirs.resolve_signature(theirs.build(state))
    assert isinstance(net.signature, Signature)
    assert (signature.scale, signature.input_channels) == (net.signature.scale, net.signature.input_channels)
    assert signature.multiple % net.signature.multiple == 0  # theirs asks for 4 at x2, where 2 is enough


@pytest.mark.parametrize("name", ["compact", "compact_x2", "dncnn_bn_kair"])
def test_other_networks_that_both_know_compute_the_same(spandrel: ModuleType, name: str) -> None:
    state = pico_state(name)
    x = torch.rand(PICO[name].shapes[0])
    assert torch.equal(find_architecture("spandrel", state).build(state)(x), pico_net(name)(x))


def test_what_spandrel_does_not_know_either(spandrel: ModuleType) -> None:
    for name in ("auto", "spandrel"):
        with pytest.raises(MismatchError, match="none of the networks known here"):
            find_architecture(name, {"head.weight": np.zeros((2, 3), np.float32)})


def test_asking_for_spandrel_where_it_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import exporters.architectures as package

    monkeypatch.delattr(package, "spandrel", raising=False)
    monkeypatch.delitem(sys.modules, "exporters.architectures.spandrel", raising=False)
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UnavailableError, match="spandrel"):
        find_architecture("spandrel", pico_state("compact"))
    assert find_architecture("auto", pico_state("compact")).name == "compact"

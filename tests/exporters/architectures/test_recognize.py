"""Recognizers: they find each known network by its own names, in the order of its layers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import exporters.architectures as package
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.errors import CheckpointError, MismatchError, UsageError
from exporters.architectures.architecture import is_batch_counter, shapes_of
from exporters.architectures.recognize import make_recognizers
from exporters.architectures.registry import find_architecture
from exporters.architectures.rrdbnet import BASICSR_NAMING, ESRGAN_NAMING, RRDBNet, make_old_esrgan_naming
from tests.support.pico_architectures import PICO, pico_net, pico_state
from tests.support.torchvision_stub import import_spandrel

State = dict[str, np.ndarray]

OWN_NETWORK = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.PReLU(4), nn.Conv2d(4, 3, 3, padding=1))
"""


def make_state(net: object) -> State:
    return {name: value.numpy() for name, value in net.state_dict().items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("arch", ["auto", "own"])
@pytest.mark.parametrize("name", PICO)
def test_every_known_network_is_found_under_a_prefix(name: str, arch: str) -> None:
    state = pico_state(name)
    recognizers = make_recognizers(PICO[name].architecture if arch == "own" else arch)
    wrapped = {f"module.netG.{key}": value for key, value in state.items()} | {"step": np.array(3)}
    checkpoint = Checkpoint.from_state_dict({"epoch": 1, "weights": wrapped}, recognizers=recognizers)
    assert checkpoint.network is not None
    assert checkpoint.network[:2] == (PICO[name].architecture, tuple(key for key in state if not is_batch_counter(key)))
    assert find_architecture("auto", checkpoint.tensors).name == PICO[name].architecture


NAMINGS = {"basicsr": BASICSR_NAMING, "esrgan": ESRGAN_NAMING, "old": make_old_esrgan_naming(2, 2)}


def rrdbnet(naming: str, value: float, *, shuffled: bool = False) -> State:
    """Tensors that are distinct by their place in the network, under one of the three namings."""
    state = make_state(RRDBNet(3, 8, 2, 4, naming=NAMINGS[naming]))
    placed = {key: np.full_like(array, place * value) for place, (key, array) in enumerate(state.items())}
    return dict(reversed(placed.items())) if shuffled else placed


@pytest.mark.parametrize("first", NAMINGS)
@pytest.mark.parametrize("second", NAMINGS)
def test_one_network_under_two_namings_is_one_family(first: str, second: str) -> None:
    members = {"a": rrdbnet(first, 1), "b": rrdbnet(second, 2, shuffled=True)}
    family = Family.from_checkpoints(members, recognizers=make_recognizers("auto"))
    assert set(family["b"].checkpoint.tensors) == set(members["a"])
    for key, array in members["a"].items():
        assert np.array_equal(family["b"].checkpoint.tensors[key], 2 * array)
    assert any("under other names" in note for note in family.notes) is (first != second)


def test_two_sizes_under_two_namings_are_no_family() -> None:
    other = make_state(RRDBNet(3, 8, 3, 4, naming=ESRGAN_NAMING))
    half = make_state(RRDBNet(3, 8, 2, 4, unshuffle=2))
    deeper = "b is rrdbnet x4 with 36,691 weights in 102 tensors, a is rrdbnet x4 with 25,387 weights in 72 tensors"
    for network, words in ((other, deeper), (half, "b is rrdbnet x2 with"), (pico_state("compact"), "b is compact x4 with")):
        members = {"a": rrdbnet("basicsr", 1), "b": network}
        with pytest.raises(MismatchError, match=words):
            Family.from_checkpoints(members, recognizers=make_recognizers("auto"))


def test_a_checkpoint_that_was_read_before_is_recognized() -> None:
    members = {
        "a": Checkpoint.from_state_dict(rrdbnet("basicsr", 1)),
        "b": Checkpoint.from_state_dict({f"net.{key}": value for key, value in rrdbnet("esrgan", 1).items()}),
    }
    assert "net." in members["b"].float_keys[0]
    family = Family.from_checkpoints(members, recognizers=make_recognizers("auto"))
    assert family["b"].checkpoint.tensors.keys() == members["a"].tensors.keys()
    assert family["b"].checkpoint.sha256 == members["b"].sha256


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    (tmp_path / "own_network.py").write_text(OWN_NETWORK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_network", raising=False)
    import own_network  # type: ignore[import-not-found]

    return make_state(own_network.build().requires_grad_(False))


def test_a_network_of_the_users_own_is_found(own_state: State) -> None:
    recognizers = make_recognizers("own_network:build")
    beside = {"aux_head.weight": np.ones((2, 2), np.float32), "decoder": np.ones(1, np.float32)}
    for prefix in ("", "model.", "module.net_g."):
        value = {**beside, **{prefix + key: array for key, array in own_state.items()}}
        checkpoint = Checkpoint.from_state_dict(value, recognizers=recognizers)
        assert list(checkpoint.tensors) == list(own_state)
        assert "2 tensors, 'aux_head', 'decoder'" in checkpoint.notes[-1]


def test_a_surplus_inside_the_users_own_network_is_a_mismatch(own_state: State) -> None:
    """The file is of a larger network: without that tensor something else would be computed."""
    value = {**own_state, "2.scale": np.ones(1, np.float32)}
    assert Checkpoint.from_state_dict(value, recognizers=make_recognizers("own_network:build")).network is None


def test_unknown_names_are_left_to_find_architecture(own_state: State) -> None:
    assert make_recognizers("unet") == ()
    with pytest.raises(UsageError, match="absent"):
        make_recognizers("own_network:absent")


def test_a_network_that_only_spandrel_knows_is_found_under_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import_spandrel()
    except ModuleNotFoundError as error:
        pytest.skip(f"spandrel is not installed: {error}")
    import torch
    from spandrel.architectures.SwinIR import SwinIR

    options = {"depths": [2, 2], "embed_dim": 12, "num_heads": [2, 2], "mlp_ratio": 2, "window_size": 8, "img_size": 64}
    torch.manual_seed(0)
    state = make_state(SwinIR(upscale=2, upsampler="pixelshuffledirect", **options).requires_grad_(False))
    wrapped = {f"net_g.{key}": value for key, value in state.items()}
    discriminator = {f"net_d.{key}.weight": np.ones((4, 4, 3, 3), np.float32) for key in range(3)}
    checkpoint = Checkpoint.from_state_dict({"state_dict": {**discriminator, **wrapped}}, recognizers=make_recognizers("auto"))
    assert checkpoint.network is not None
    assert checkpoint.network[0] == "spandrel.SwinIR"
    assert set(checkpoint.tensors) == set(state)


def test_a_spandrel_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision that was built for another torch is the usual case."""
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")
    monkeypatch.delattr(package, "spandrel", raising=False)
    monkeypatch.delitem(sys.modules, "exporters.architectures.spandrel", raising=False)
    for part in [name for name in sys.modules if name.partition(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, part)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MismatchError, match="torchvision") as caught:
        find_architecture("auto", {"head.weight": np.zeros((2, 3), np.float32)})
    assert "the extra 'spandrel' knows" not in str(caught.value)


def test_the_last_network_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = make_recognizers("auto")[0]
    shapes = shapes_of(pico_state("compact"))
    first = recognizer(shapes, dict)
    monkeypatch.setattr("exporters.architectures.recognize.ARCHITECTURES", ())
    assert recognizer(dict(shapes), dict) == first
    assert recognizer({**shapes, "x": (1,)}, dict) is None


def test_two_generators_in_one_file_are_listed() -> None:
    states = {"G_A": make_state(pico_net("cyclegan")), "G_B": make_state(pico_net("cyclegan", seed=1))}
    with pytest.raises(CheckpointError, match="holds 2 networks: 'G_A', 'G_B'"):
        Checkpoint.from_state_dict(states, recognizers=make_recognizers("auto"))

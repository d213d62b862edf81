"""Each network is recognized by one architecture by its names and shapes alone, and rebuilt exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dni_deploy.errors import MismatchError, UsageError
from dni_deploy.signature import Signature
from exporters.architectures.architecture import Architecture, shapes_of
from exporters.architectures.compact import SRVGGNetCompact
from exporters.architectures.registry import ARCHITECTURES, find_architecture
from exporters.architectures.rrdbnet import RRDBNet
from exporters.architectures.transformer_net import TransformerNet
from tests.exporters.architectures import public_names as public
from tests.support.pico_architectures import PICO, pico_family, pico_net, pico_state


def known(name: str) -> Architecture:
    return next(architecture for architecture in ARCHITECTURES if architecture.name == name)


def example(shape: tuple[int, ...], seed: int = 5) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PICO)
def test_a_network_is_recognized_by_one_architecture_and_rebuilt_exactly(name: str) -> None:
    net, state = pico_net(name, seed=1), pico_state(name, seed=1)
    shapes = shapes_of(state)
    assert [each.name for each in ARCHITECTURES if each.matches(shapes)] == [PICO[name].architecture]

    rebuilt = find_architecture("auto", state).build(state)
    assert list(rebuilt.state_dict()) == list(state)
    assert not rebuilt.training
    assert not any(tensor.requires_grad for tensor in rebuilt.parameters())
    for shape in PICO[name].shapes:
        assert torch.equal(rebuilt(example(shape)), net(example(shape)))  # the same operations on the same numbers


@pytest.mark.parametrize("name", PICO)
def test_the_signature_says_what_comes_out(name: str) -> None:
    state = pico_state(name)
    architecture = find_architecture("auto", state)
    net = architecture.build(state)
    signature = architecture.resolve_signature(net)
    for batch, channels, height, width in PICO[name].shapes:
        assert (channels, height % signature.multiple, width % signature.multiple) in {
            (signature.input_channels, 0, 0),
            (signature.input_channels, 1, 1),
        }
        out = net(example((batch, channels, height, width)))
        assert out.shape == (batch, signature.output_channels, height * signature.scale, width * signature.scale)
        if (signature.low, signature.high) == (-1.0, 1.0):
            assert float(out.abs().max()) <= 1


PUBLIC = {
    # name: (architecture, shapes, number of parameters as published, signature)
    "RealESRGAN_x4plus": ("rrdbnet", public.rrdbnet(public.NEW, 23, 2), 16_697_987, Signature(scale=4, radius=349)),
    "RealESRGAN_x2plus": (
        "rrdbnet",
        public.rrdbnet(public.NEW, 23, 2, inputs=12),
        16_703_171,
        Signature(scale=2, multiple=2, radius=698),
    ),
    "RealESRGAN_x4plus_anime_6B": ("rrdbnet", public.rrdbnet(public.NEW, 6, 2), None, Signature(scale=4, radius=94)),
    "x8 in the new style": ("rrdbnet", public.rrdbnet(public.NEW, 2, 3), None, Signature(scale=8, radius=34)),
    "x1 in the new style": (
        "rrdbnet",
        public.rrdbnet(public.NEW, 1, 2, inputs=48),
        None,
        Signature(scale=1, multiple=4, radius=76),
    ),
    "BSRGAN": ("rrdbnet", public.rrdbnet(public.MIDDLE, 23, 2), 16_697_987, Signature(scale=4, radius=349)),
    "BSRGANx2": ("rrdbnet", public.rrdbnet(public.MIDDLE, 23, 1), None, Signature(scale=2, radius=349)),
    "RRDB_ESRGAN_x4_old_arch": ("rrdbnet", public.rrdbnet(public.OLD[4], 23, 2), 16_697_987, Signature(scale=4, radius=349)),
    "x1 in the old style": ("rrdbnet", public.rrdbnet(public.OLD[1], 3, 0), None, Signature(scale=1, radius=49)),
    "x2 in the old style": ("rrdbnet", public.rrdbnet(public.OLD[2], 3, 1), None, Signature(scale=2, radius=49)),
    "x8 in the old style": ("rrdbnet", public.rrdbnet(public.OLD[8], 3, 3), None, Signature(scale=8, radius=49)),
    "realesr-general-x4v3": ("compact", public.compact(32), 1_213_296, Signature(scale=4, radius=34)),
    "realesr-animevideov3": ("compact", public.compact(16), 621_424, Signature(scale=4, radius=18)),
    "dncnn_25": ("dncnn", public.dncnn_merged(17, 1), 555_137, Signature(1, 1, radius=17)),
    "dncnn_color_blind": ("dncnn", public.dncnn_merged(20, 3), 668_227, Signature(radius=20)),
    "DnCNN-S port": ("dncnn", public.dncnn_port(17, 1), 556_032, Signature(1, 1, radius=17)),
    "style_monet_pretrained": ("cyclegan", public.cyclegan(9), 11_378_179, Signature(multiple=4, low=-1.0, minimum=8)),
    "6 blocks, for 128 x 128": ("cyclegan", public.cyclegan(6), 7_837_699, Signature(multiple=4, low=-1.0, minimum=8)),
    "mosaic.pth": ("transformer_net", public.transformer_net(), 1_679_235, Signature(multiple=4, high=255.0, minimum=8)),
    "DCGAN, 64 x 64": ("dcgan", public.dcgan(), 3_576_704, Signature(100, scale=64, low=-1.0, kind="latent")),
    "SRCNN 9-5-5": ("srcnn", public.srcnn((9, 5, 5)), 57_281, Signature(1, 1, radius=8)),
    "SRCNN 9-1-5": ("srcnn", public.srcnn((9, 1, 5)), 8_129, Signature(1, 1, radius=6)),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_checkpoints_are_read_off_their_names_and_shapes(name: str) -> None:
    architecture, shapes, parameters, signature = PUBLIC[name]
    assert [each.name for each in ARCHITECTURES if each.matches(shapes)] == [architecture]
    with torch.device("meta"):  # the networks' size is not what is tested
        net = known(architecture).infer_hyperparameters(shapes)
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == shapes
    assert known(architecture).resolve_signature(net) == signature
    if parameters is not None:
        assert sum(math.prod(tensor.shape) for tensor in net.parameters()) == parameters


def proposed(name: str, shapes: public.Shapes) -> nn.Module:
    with torch.device("meta"):
        return known(name).infer_hyperparameters(shapes)


def test_hyper_parameters_come_from_the_shapes() -> None:
    rrdbnet = proposed("rrdbnet", public.rrdbnet(public.NEW, 6, 2, inputs=12, width=48, growth=24))
    assert isinstance(rrdbnet, RRDBNet)
    assert (len(rrdbnet.blocks), len(rrdbnet.upsample_names), rrdbnet.unshuffle) == (6, 2, 2)
    compact = proposed("compact", public.compact(16, scale=2, width=24))
    assert isinstance(compact, SRVGGNetCompact)
    assert (len(compact.body), compact.scale) == (35, 2)
    transformer = proposed("transformer_net", public.transformer_net())
    assert isinstance(transformer, TransformerNet)
    assert transformer.blocks == 5


def test_statistics_that_instance_norm_never_reads_are_dropped() -> None:
    for name, places in (("transformer_net", ("in1", "in5", "res1.in2")), ("cyclegan", ("model.2", "model.10.conv_block.2"))):
        state = pico_state(name)
        old = dict(state)
        for place in places:
            old[f"{place}.running_mean"] = np.zeros(4, np.float32)
            old[f"{place}.running_var"] = np.ones(4, np.float32)
        architecture = find_architecture("auto", old)
        assert architecture.name == name
        assert list(architecture.canonicalize_tensors(old)) == list(state)
        x = example(PICO[name].shapes[0])
        assert torch.equal(architecture.build(old)(x), pico_net(name)(x))
    batch_norm = pico_state("cyclegan_bn")
    assert list(known("cyclegan").canonicalize_tensors(batch_norm)) == list(batch_norm)


def test_unknown_networks_and_names_are_answered_with_what_is_known() -> None:
    with pytest.raises(
        MismatchError, match=r"1 tensors \(first 'head.weight', \(2, 3\)\).*srcnn, dncnn, rrdbnet.*--arch package"
    ):
        find_architecture("auto", {"head.weight": np.zeros((2, 3), np.float32)})
    with pytest.raises(MismatchError, match="0 tensors"):
        find_architecture("auto", {})
    with pytest.raises(UsageError, match=r"no architecture 'unet'.*rrdbnet.*package\.module:factory"):
        find_architecture("unet", pico_state("compact"))


def test_a_far_position_does_not_ask_for_a_network_of_that_depth() -> None:
    for name, key in (("dncnn", "model.99998.weight"), ("compact", "body.99998.weight")):
        state = pico_state(name)
        prefix = key.partition(".")[0]
        with pytest.raises(MismatchError, match=r"position 99998"):
            find_architecture(name, {**state, key: state[f"{prefix}.0.weight"]})


def test_a_pico_family_is_near_and_each_member_fits() -> None:
    members = pico_family("dncnn_bn", 3, seed=2)
    first = members[0]
    for member in members[1:]:
        assert shapes_of(member) == shapes_of(first)
        assert find_architecture("auto", member).name == "dncnn"
        assert all((member[key] > 0).all() for key in member if key.endswith("running_var"))
        assert 0.99 < np.corrcoef(first["model.2.weight"].ravel(), member["model.2.weight"].ravel())[0, 1] < 1
    np.testing.assert_array_equal(first["model.0.weight"], pico_state("dncnn_bn", seed=2)["model.0.weight"])

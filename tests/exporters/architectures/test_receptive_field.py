"""The declared radius is as far as an impulse spreads."""

from __future__ import annotations

import pytest
import torch

from dni_deploy.signature import Signature
from exporters.architectures.receptive_field import (
    compute_radius,
    conv_step,
    transposed_conv_step,
    unshuffle_step,
    upsample_step,
)
from exporters.architectures.rrdbnet import RRDBNet
from tests.support.pico_architectures import PICO

LOCAL = {name: pico.factory for name, pico in PICO.items() if pico.factory().signature.radius is not None}
LOCAL["rrdbnet_x1"] = lambda: RRDBNet(3, 4, 1, 2, unshuffle=4)
LOCAL["rrdbnet_x8"] = lambda: RRDBNet(3, 4, 1, 2, upsample_count=3)


@pytest.mark.parametrize("name", LOCAL)
def test_radius_is_as_far_as_an_impulse_spreads_and_no_farther(name: str) -> None:
    """All weights positive and nothing added: what an impulse reaches is then not zero, however small (float64)."""
    net = LOCAL[name]().eval().requires_grad_(False).double()
    signature = net.signature
    assert isinstance(signature, Signature)
    for key, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.zeros_like(tensor) if key.endswith(("bias", "running_mean")) else tensor.abs() + 0.01)
    assert signature.radius is not None
    multiple, scale = signature.multiple, signature.scale
    middle = (signature.radius // multiple + 2) * multiple
    farthest = 0
    for phase in range(multiple):
        x = torch.zeros(1, signature.input_channels, 8, 2 * middle, dtype=torch.float64)
        x[0, :, 4, middle + phase] = 1
        reached = net(x)[0].abs().sum(dim=(0, 1)).reshape(-1, scale).sum(dim=1).nonzero().flatten()
        farthest = max(farthest, int((reached - middle - phase).abs().max()))
    assert farthest == signature.radius


def test_radius_by_hand() -> None:
    assert compute_radius([conv_step(3)] * 5) == 5
    assert compute_radius([conv_step(9), conv_step(1), conv_step(5)]) == 6
    # An output pixel of phase 1 sees the three inputs around the even pixel before it: 2 to the left.
    assert compute_radius([conv_step(3, 2), upsample_step(2)], multiple=2) == 2
    # 2 x 2 input pixels become one, a convolution sees one more on each side, and all are enlarged again.
    assert compute_radius([unshuffle_step(2), conv_step(3), upsample_step(2)], multiple=2) == 3
    # A transposed convolution of kernel 3, stride 2, padding 1: an even output sees one input, an odd one two.
    assert compute_radius([transposed_conv_step(3, 2, 1)], scale=2) == 1

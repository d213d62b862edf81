"""A measured signature agrees with the declared one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures.measure_signature import measure_signature, raise_minimum
from tests.support.pico_architectures import PICO, pico_net


@pytest.mark.parametrize("name", [name for name in PICO if PICO[name].architecture != "dcgan"])
def test_what_is_measured_agrees_with_what_is_declared(name: str) -> None:
    net = pico_net(name)
    declared, measured = net.signature, measure_signature(net)
    assert isinstance(declared, Signature)
    assert raise_minimum(net, declared) == declared
    for field in ("input_channels", "output_channels", "scale", "multiple"):
        assert getattr(measured, field) == getattr(declared, field), field
    assert (measured.low, measured.high, measured.radius) == (0.0, 1.0, None)


def test_a_network_that_makes_no_picture_cannot_be_measured() -> None:
    with pytest.raises(MismatchError, match=r"could not be measured.*attribute 'signature'"):
        measure_signature(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)).eval())
    with pytest.raises(MismatchError, match="could not be measured"):
        measure_signature(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)).eval())


class Reflected(nn.Module):
    """Halves and reflects 9 pixels: sides of 20 or more, in multiples of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        small = nn.functional.pad(self.conv(x), (9,) * 4, mode="reflect")[:, :, 9:-9, 9:-9]
        return nn.functional.pixel_shuffle(small, 2)


def test_the_minimum_is_the_smallest_side_at_which_the_network_runs() -> None:
    net = Reflected().eval()
    assert raise_minimum(net, Signature(multiple=2)) == Signature(multiple=2, minimum=20)
    assert raise_minimum(net, Signature(multiple=2, minimum=31)) == Signature(multiple=2, minimum=31)
    assert raise_minimum(net, Signature(input_channels=4)) == Signature(input_channels=4)  # it runs at no size
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 20, 20)).shape == (1, 3, 20, 20)

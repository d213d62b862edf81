"""A measured signature agrees with the declared one."""

from __future__ import annotations

import pytest
from torch import nn

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures.measure_signature import measure_signature
from tests.support.pico_architectures import PICO, pico_net


@pytest.mark.parametrize("name", [name for name in PICO if PICO[name].architecture != "dcgan"])
def test_what_is_measured_agrees_with_what_is_declared(name: str) -> None:
    declared, measured = pico_net(name).signature, measure_signature(pico_net(name))
    assert isinstance(declared, Signature)
    for field in ("input_channels", "output_channels", "scale", "multiple"):
        assert getattr(measured, field) == getattr(declared, field), field
    assert (measured.low, measured.high, measured.radius) == (0.0, 1.0, None)


def test_a_network_that_makes_no_picture_cannot_be_measured() -> None:
    with pytest.raises(MismatchError, match=r"could not be measured.*attribute 'signature'"):
        measure_signature(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)).eval())
    with pytest.raises(MismatchError, match="could not be measured"):
        measure_signature(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)).eval())

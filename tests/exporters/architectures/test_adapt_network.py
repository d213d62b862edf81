"""Outputs and borders of real networks: one image of several outputs, valid convolutions, luma of RGB images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures.adapt_network import adapt_network
from exporters.architectures.measure_signature import measure_signature


class Several(nn.Module):
    """Gives what it is asked for: features, the image, numbers."""

    def __init__(self, outputs: str) -> None:
        super().__init__()
        self.conv, self.outputs = nn.Conv2d(3, 3, 3, padding=1), outputs

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        values = {"image": y, "features": y.repeat(1, 4, 1, 1), "small": y[:, :, ::2, ::2], "number": y.mean()}
        chosen = [values[name] for name in self.outputs.split()]
        return {"out": chosen[0], "aux": chosen[1]} if len(chosen) == 2 else tuple(chosen)


@pytest.mark.parametrize("outputs", ["features image number", "image small"])
def test_the_output_that_is_an_image_is_taken(outputs: str) -> None:
    torch.manual_seed(0)
    net = Several(outputs).eval().requires_grad_(False)
    x = torch.rand(1, 3, 9, 8)
    expected = net.conv(x)
    adapt_network(net)
    assert torch.equal(net(x), expected)
    assert list(net.state_dict()) == ["conv.weight", "conv.bias"]
    (note,) = net.export_notes
    assert note.startswith(f"The network gives {len(outputs.split())} outputs; the image is the one at ")
    assert measure_signature(net) == Signature()


@pytest.mark.parametrize(("outputs", "count"), [("image image number", 2), ("features small number", 0)])
def test_several_images_or_none_are_refused(outputs: str, count: int) -> None:
    with pytest.raises(MismatchError, match=f"gives 3 outputs, {count} of them images"):
        adapt_network(Several(outputs).eval())


def test_a_border_that_convolutions_cut_off_is_given_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.PixelShuffle(2)).eval().requires_grad_(False)
    x = torch.rand(1, 3, 9, 8)
    expected = net(nn.functional.pad(x, (2,) * 4, mode="replicate"))
    adapt_network(net)
    assert torch.equal(net(x), expected)
    assert "cut off 2 pixels on each side" in net.export_notes[0]  # type: ignore[index]
    assert measure_signature(net) == Signature(scale=2)


class Luma(nn.Module):
    """Changes the luma of RGB images; it runs on gray ones, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        luma = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        return x + self.conv(luma) - luma  # type: ignore[no-any-return]


def test_a_network_on_the_luma_of_rgb_takes_rgb() -> None:
    net = Luma().eval()
    adapt_network(net)
    assert (net.export_notes, measure_signature(net)) == ([], Signature())


def test_networks_that_need_nothing_stay_as_they_are() -> None:
    for net in (nn.Conv2d(1, 1, 3, padding=1), nn.Linear(3, 3), nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))):
        kind = type(net.eval())
        adapt_network(net)
        assert type(net) is kind

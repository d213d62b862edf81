"""Networks whose code turns sizes into constants while it is traced are exported so that they follow every size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dni_deploy.errors import InputError
from dni_deploy.signature import Signature
from exporters.capture_program import make_example_input
from exporters.export_graph import export_graph
from exporters.training_form import use_training_form
from exporters.verify_graph import verify_graph


class Windows(nn.Module):
    """Undoes its windows as SwinIR does, whose division fixes the batch to that of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        windows = x.view(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, channels)
        windows = windows @ self.weight
        count = int(windows.shape[0] / (height * width / 4 / 4))
        windows = windows.view(count, height // 4, width // 4, 4, 4, -1)
        return windows.permute(0, 5, 1, 3, 2, 4).reshape(count, channels, height, width)


class PadsToEight(nn.Module):
    """Pads as FBCNN does, by a number of pixels that tracing would make a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=8, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        below, right = int(np.ceil(height / 8) * 8 - height), int(np.ceil(width / 8) * 8 - width)
        small = self.conv(nn.functional.pad(x, (0, right, 0, below), mode="replicate"))
        return nn.functional.interpolate(small, scale_factor=8.0, mode="nearest")[..., :height, :width]


class Rows(nn.Module):
    """Runs a GRU along each row."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows, _ = self.rnn(x.permute(0, 2, 3, 1).reshape(batch * height, width, channels))
        return rows.reshape(batch, height, width, channels).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class PoolsToAQuarter(nn.Module):
    """Pools to a part of its size, as SAFMN does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        small = nn.functional.adaptive_max_pool2d(self.conv(x), (x.shape[2] // 4, x.shape[3] // 4))
        return x + nn.functional.interpolate(small, size=x.shape[2:], mode="nearest")


@pytest.mark.parametrize(
    ("factory", "multiple", "batch"), [(Windows, 4, 1), (PadsToEight, 1, 0), (Rows, 1, 0), (PoolsToAQuarter, 4, 0)]
)
@pytest.mark.slow
def test_sizes_that_tracing_would_fix_are_followed(factory: type[nn.Module], multiple: int, batch: int) -> None:
    torch.manual_seed(0)
    net, signature = factory().eval().requires_grad_(False), Signature(multiple=multiple)
    graph = export_graph(net, signature).graph
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == batch
    assert verify_graph(graph, net, signature) < 1e-6
    assert "int" not in vars(__import__(__name__, fromlist=["x"]))


class FixedSize(nn.Module):
    """A position embedding of the example's size and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.linspace(-1, 1, x.shape[2])
        return x * self.weight + grid[:, None]


def test_a_size_that_stays_fixed_is_one_sentence() -> None:
    with pytest.raises(
        InputError,
        match=rf"The network FixedSize cannot be exported: its code fixes height to 22 in {__file__}, "
        r"line \d+: grid = torch.linspace\(-1, 1, x.shape\[2\]\)\. torch.arange\(h\) follows the size",
    ) as caught:
        export_graph(FixedSize().eval(), Signature())
    assert "\n" not in str(caught.value)


class Decides(nn.Module):
    """Depends on the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.mean() > 0 else x  # type: ignore[no-any-return]


def test_a_decision_on_the_pixels_is_one_sentence_with_its_line() -> None:
    with pytest.raises(InputError, match=rf"data-dependent .* in {__file__}, line \d+: return self\.conv") as caught:
        export_graph(Decides().eval(), Signature())
    assert "\n" not in str(caught.value)


class Reparameterized(nn.Module):
    """SPAN's Conv3XC, reduced: one convolution in use, two in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.skip = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.eval_conv = nn.Conv2d(3, 3, 3, padding=1)

    def update_params(self) -> None:
        self.eval_conv.weight.data = self.conv.weight.data + nn.functional.pad(self.skip.weight.data, (1, 1, 1, 1))
        assert self.conv.bias is not None
        assert self.skip.bias is not None
        self.eval_conv.bias.data = self.conv.bias.data + self.skip.bias.data

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor
        if self.training:
            out = self.conv(x) + self.skip(x)
        else:
            self.update_params()
            out = self.eval_conv(x)
        return out


class Experts(nn.Module):
    """SeemoRe's MoELayer, reduced: of three experts, it runs the two that the image's mean chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.gate, self.num_expert = nn.Linear(3, 3), 2

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.gate(x.mean((2, 3))), 1)
        top_weights, top_experts = torch.topk(weights, self.num_expert)
        out = x.clone()
        if self.training:
            used = torch.zeros_like(weights).scatter_(1, top_experts, top_weights)
            for index, expert in enumerate(self.experts):
                out += expert(x) * used[:, index : index + 1, None, None]
        else:
            for index, chosen in enumerate(top_experts.squeeze(0)):
                out += self.experts[chosen](x) * top_weights[:, index : index + 1, None, None]
        return out


@pytest.mark.slow
def test_a_mixture_of_experts_is_exported_with_all_of_them() -> None:
    torch.manual_seed(0)
    net = Experts().eval().requires_grad_(False)
    exported = export_graph(net, Signature())
    assert exported.unused == ()
    assert exported.graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1  # it takes one image at a time
    assert verify_graph(exported.graph, net, Signature()) < 1e-6


def test_a_reparameterized_convolution_is_exported_with_the_weights_of_its_training_form() -> None:
    torch.manual_seed(0)
    net = Reparameterized().eval().requires_grad_(False)
    exported = export_graph(net, Signature())
    assert exported.names == ("conv.weight", "conv.bias", "skip.weight", "skip.bias")
    assert exported.unused == ("eval_conv.weight", "eval_conv.bias")
    assert verify_graph(exported.graph, net, Signature()) < 1e-6  # against the form that runs
    assert not net.training
    with use_training_form(net):
        assert net.training


def test_the_example_has_more_than_one_patch_of_the_smallest_side() -> None:
    x, _ = make_example_input(Signature(minimum=24))
    assert min(x.shape[2:]) >= 48  # IPT's patches: with one patch in a row the exporter takes their number for a constant

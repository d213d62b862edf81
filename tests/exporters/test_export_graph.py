"""Lift: every float weight is an initializer under its own name, whatever the values are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from dni_deploy.errors import InputError, LimitError, MismatchError, UsageError
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import relative_error
from dni_deploy.utils.onnx_weights import strip_initializer
from exporters.export_graph import export_graph
from tests.support.exported_network import ROUNDING, export_pico, run_graph, seeded_input
from tests.support.pico_architectures import PICO, pico_net

DIRECT = ("Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization")


@pytest.mark.parametrize("name", PICO)
def test_every_float_key_is_an_initializer_and_feeds_its_layer_directly(name: str) -> None:
    result, net, signature = export_pico(name)
    floats = tuple(key for key, value in net.state_dict().items() if value.is_floating_point())
    assert result.names == floats
    assert (result.unused, result.tied) == ((), {})
    graph = result.graph.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    assert tuple(key for key in initializers if key in floats) == floats
    for key, value in net.state_dict().items():
        if key in floats:
            assert np.array_equal(onnx.numpy_helper.to_array(initializers[key]), value.numpy())

    reshaped = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    for node in graph.node:
        if node.op_type in DIRECT:
            assert all(key in initializers for key in node.input[1:] if key), f"{node.name} reads {node.input}"
        if node.op_type == "PRelu":
            assert reshaped.get(node.input[1], node.input[1]) in floats
    modules = [type(module) for module in net.modules()]
    counts = {kind: sum(node.op_type == kind for node in graph.node) for kind in DIRECT}
    assert counts["BatchNormalization"] == modules.count(nn.BatchNorm2d)  # none was folded into a convolution
    # A convolution without weights of the network is pixel unshuffle.
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in floats]
    assert len(convolutions) == modules.count(nn.Conv2d) + modules.count(nn.ConvTranspose2d)

    axes = ["n", signature.input_channels, 1, 1] if signature.kind == "latent" else ["n", signature.input_channels, "h", "w"]
    described = [value.dim_param or value.dim_value for value in graph.input[0].type.tensor_type.shape.dim]
    assert ([value.name for value in graph.input], described) == (["x"], axes)
    assert [value.name for value in graph.output] == ["y"]


@pytest.mark.parametrize("name", ["dncnn_bn", pytest.param("transformer_net", marks=pytest.mark.slow)])
def test_the_same_network_gives_the_same_bytes_and_nothing_of_this_machine(name: str) -> None:
    first, net, signature = export_pico(name)
    second = export_graph(net, signature)
    assert first.graph.SerializeToString() == second.graph.SerializeToString()
    assert first.graph.producer_name == "pytorch"
    data = first.graph.SerializeToString()
    for trace in (b".py", b"File ", b"site-packages", __file__.encode()):
        assert trace not in data
    assert not any(node.doc_string or node.metadata_props for node in first.graph.graph.node)


def test_the_graph_does_not_depend_on_the_values() -> None:
    """Zero biases and equal tensors are what an exporter that sees values drops and merges."""
    drawn, net, signature = export_pico("dncnn_bn")
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                value.fill_(0.0 if key.endswith("bias") else 1.0)
    flat = export_graph(net, signature)
    assert flat.names == drawn.names
    for each in (flat, drawn):
        for tensor in each.graph.graph.initializer:
            strip_initializer(tensor)
    assert flat.graph.SerializeToString() == drawn.graph.SerializeToString()


class Tied(nn.Module):
    """Two names for one layer, and a layer that forward never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 3, 3, padding=1)
        self.spare = nn.Conv2d(3, 3, 1)
        self.two = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))  # type: ignore[no-any-return]


def test_tied_and_unread_weights_are_separate() -> None:
    result = export_graph(Tied(), Signature())
    assert result.names == ("one.weight", "one.bias")
    assert result.unused == ("spare.weight", "spare.bias")
    assert result.tied == {"two.weight": "one.weight", "two.bias": "one.bias"}


class ReadsAfterOverwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.activation = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        return features + self.activation(features)  # type: ignore[no-any-return]  # twice the positive part


def test_an_in_place_layer_that_matters_stays_so() -> None:
    torch.manual_seed(0)
    net = ReadsAfterOverwriting().eval()
    graph = export_graph(net, Signature()).graph
    assert net.activation.inplace
    x = seeded_input(1, 3, 9, 14)
    with torch.no_grad():
        assert relative_error(run_graph(graph, x), net(x).numpy()) <= ROUNDING


def custom(forward: Callable[[nn.Module, Tensor], Any], **weights: Tensor) -> nn.Module:
    net = type("Custom", (nn.Module,), {"forward": forward})()
    for name, value in {"gain": torch.full((3, 1, 1), 0.5), **weights}.items():
        setattr(net, name, nn.Parameter(value))
    return net


def branches(net: nn.Module, x: Tensor) -> Tensor:
    return x * net.gain if float(x.mean()) > 0.5 else x  # type: ignore[operator]


def test_what_the_exporter_cannot_read_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^The network Custom cannot be exported: .+\.$") as caught:
        export_graph(custom(branches), Signature())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_the_exporter_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    export_graph(pico_net("dncnn"), Signature())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("net", "signature", "error", "words"),
    [
        (lambda: pico_net("dncnn"), Signature(input_channels=1), MismatchError, "does not take an input of shape"),
        (lambda: pico_net("dncnn"), Signature(output_channels=1), MismatchError, "says 1 channels"),
        (lambda: pico_net("dncnn"), Signature(scale=2), MismatchError, "at scale 2"),
        (lambda: custom(lambda net, x: x + net.gain * torch.rand_like(x)), Signature(), MismatchError, "draws random numbers"),
        (lambda: custom(lambda net, x: (x, x)), Signature(), MismatchError, "gives a tuple"),
        (lambda: custom(lambda net, x: x * net.x, x=torch.ones(3, 1, 1)), Signature(), InputError, "weight named 'x'"),
        (lambda: custom(lambda net, x: x * net.gain).half(), Signature(), InputError, "built in float32"),
        (lambda: custom(lambda net, x: net.gain.expand(2, 3, 22, 31)), Signature(), InputError, "does not depend on its input"),
        (lambda: custom(lambda net, x: x + net.place, place=torch.ones(1, 3, 22, 31)), Signature(), InputError, "cannot be exported"),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit_is_refused(
    net: Callable[[], nn.Module], signature: Signature, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        export_graph(net(), signature)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opset", [16, 99])
def test_an_opset_out_of_range_is_a_usage_error(opset: int) -> None:
    with pytest.raises(UsageError, match=str(opset)):
        export_graph(pico_net("dncnn"), Signature(), opset=opset)


def test_more_than_a_file_holds_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.export_graph.MAX_WEIGHTS_BYTES", 1000)
    with pytest.raises(LimitError, match="more than one ONNX file holds"):
        export_graph(pico_net("dncnn"), Signature())

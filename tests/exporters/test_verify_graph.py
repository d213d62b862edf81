"""The verification of an exported graph passes what follows its weights, and can fail."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import Tensor, nn

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.architectures.measure_signature import raise_minimum
from exporters.capture_program import make_example_input
from exporters.export_graph import export_graph
from exporters.verify_graph import MAX_RELATIVE_ERROR, _make_inputs, verify_graph
from tests.support.exported_network import export_pico
from tests.support.pico_architectures import PICO, pico_net


@pytest.fixture(scope="module")
def dncnn() -> tuple[onnx.ModelProto, nn.Module]:
    exported, net, _ = export_pico("dncnn_bn")
    return exported.graph, net


def copied(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


@pytest.mark.parametrize("name", PICO)
def test_a_lifted_graph_passes_far_below_the_tolerance(name: str) -> None:
    result, net, signature = export_pico(name)
    assert verify_graph(result.graph, net, signature) < MAX_RELATIVE_ERROR / 10  # rounding reaches 6e-6, with InstanceNorm


def test_the_network_keeps_its_weights(dncnn: tuple[onnx.ModelProto, nn.Module]) -> None:
    graph, net = dncnn
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert verify_graph(graph, net, Signature(), seed=1) == verify_graph(graph, net, Signature(), seed=1)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_exporters_own_default_fails() -> None:
    """Seen as parameters, the BatchNorms' tensors are folded into the convolutions: names are left, and refitting them is wrong."""
    net = pico_net("dncnn_bn")
    side = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        net,
        (torch.rand(2, 3, 22, 31),),
        dynamo=True,
        optimize=True,
        dynamic_shapes=({0: side, 2: side, 3: side},),
        input_names=["x"],
        output_names=["y"],
        verbose=False,
    )
    with pytest.raises(MismatchError, match=r"does not follow its weights.* differs from PyTorch's by") as caught:
        verify_graph(program.model_proto, net, Signature())
    assert float(str(caught.value).partition("PyTorch's by ")[2].split()[0]) > 100 * MAX_RELATIVE_ERROR


@pytest.mark.parametrize("key", [key for key, value in pico_net("dncnn_bn").state_dict().items() if value.is_floating_point()])
def test_a_single_weight_that_does_not_follow_is_seen(key: str, dncnn: tuple[onnx.ModelProto, nn.Module]) -> None:
    """Each tensor in turn becomes a constant under another name, as after a fold."""
    graph, net = copied(dncnn[0]), dncnn[1]
    next(tensor for tensor in graph.graph.initializer if tensor.name == key).name = "val_7"
    for node in graph.graph.node:
        node.input[:] = ["val_7" if name == key else name for name in node.input]
    with pytest.raises(MismatchError, match="does not follow its weights"):
        verify_graph(graph, net, Signature())


def test_a_weight_without_effect_is_named(dncnn: tuple[onnx.ModelProto, nn.Module]) -> None:
    graph, net = copied(dncnn[0]), dncnn[1]
    last = graph.graph.node[-2]
    last.input[2] = ""  # the last convolution's bias
    with pytest.raises(MismatchError, match=r"1 weights of the graph have no effect on its output, first 'model\.\d+\.bias'"):
        verify_graph(graph, net, Signature())


def test_a_graph_that_does_not_load_is_one_sentence(dncnn: tuple[onnx.ModelProto, nn.Module]) -> None:
    graph, net = copied(dncnn[0]), dncnn[1]
    graph.graph.node[0].op_type = "Konv"
    with pytest.raises(MismatchError, match="ONNX Runtime cannot load the exported graph") as caught:
        verify_graph(graph, net, Signature())
    assert "\n" not in str(caught.value)


class Sensitive(nn.Module):
    """Infinite as soon as its weight moves."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.exp(1e4 * (self.gain - 1).abs())


def test_a_network_that_leaves_the_numbers_cannot_be_verified() -> None:
    net = Sensitive().eval()
    with pytest.raises(MismatchError, match="NaN or infinite values"):
        verify_graph(export_graph(net, Signature()).graph, net, Signature())


class Padded(nn.Module):
    """Reflects 18 pixels, as Real-CUGAN does: an input of 18 pixels or fewer is too small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(nn.functional.pad(x, (18,) * 4, mode="reflect"))[:, :, 18:-18, 18:-18]
        return out


class Pooled(nn.Module):
    """Pools 7 x 7 of a map of half the size, as the ESA block of RFDN and RLFN does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        small = nn.functional.max_pool2d(self.conv(x), 7, 3)
        return x * torch.sigmoid(nn.functional.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=False))


@pytest.mark.parametrize("factory", [Padded, Pooled])
def test_a_network_that_needs_larger_inputs_is_exported_and_verified(factory: type[nn.Module]) -> None:
    net = factory().eval().requires_grad_(False)
    signature = raise_minimum(net, Signature())
    assert verify_graph(export_graph(net, signature).graph, net, signature) < MAX_RELATIVE_ERROR / 10


class Quartered(nn.Module):
    """Needs sides in multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(48, 48, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.conv(nn.functional.pixel_unshuffle(x, 4)), 4)


def test_a_multiple_that_the_signature_lacks_still_fails() -> None:
    net = Quartered().eval().requires_grad_(False)
    graph = export_graph(net, Signature(multiple=4)).graph
    with pytest.raises(MismatchError, match="Quartered fails on an input of 13 x 18 pixels, which its signature allows"):
        verify_graph(graph, net, Signature())


def test_a_graph_that_fails_on_a_size_is_named(dncnn: tuple[onnx.ModelProto, nn.Module]) -> None:
    graph, net = copied(dncnn[0]), dncnn[1]
    graph.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 24
    with pytest.raises(MismatchError, match="The exported graph of DnCNN fails on an input of 13 x 18 pixels"):
        verify_graph(graph, net, Signature())


def test_an_input_is_larger_than_the_one_that_the_graph_was_traced_with() -> None:
    signature = Signature(multiple=8, minimum=16)
    example, _ = make_example_input(signature)
    sizes = [x.shape for x in _make_inputs(signature, torch.Generator(), 2)]
    assert any(size[2] > example.shape[2] for size in sizes)

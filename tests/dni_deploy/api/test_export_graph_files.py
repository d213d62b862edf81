"""export of families of .onnx and ncnn files: the session computes what the files, and PyTorch, compute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

import dni_deploy as dni
from dni_deploy.calibration.alignment import permute_tensors
from dni_deploy.calibration.channel_groups import find_channel_groups
from dni_deploy.cli.main import main
from dni_deploy.errors import InputError, MismatchError, UsageError
from dni_deploy.utils.compare_arrays import relative_error
from engines.ort_session import bind_initializers
from tests.support.channel_graphs import ChannelGraph
from tests.support.graph_files import export_onnx, make_conv_model, scramble_names, write_model, write_ncnn
from tests.support.pico_architectures import PICO, pico_family

ROOT = Path(__file__).parents[3]
MAX_ERROR_ENDS = 1e-6
"""The operators are those of the file; the engine may order sums in another way."""
MAX_ERROR_MIXED = 1e-5
"""float32 against float64 over a few layers."""
EXPORT_WITHOUT_TORCH = """
import sys
for name in ("torch", "onnxscript"):
    sys.modules[name] = None
import dni_deploy as dni
output, *members = sys.argv[1:]
bundle = dni.export(dict(member.split("=") for member in members), output)
print(bundle.architecture)
"""


def load(architecture: str, state: dict[str, Any]) -> nn.Module:
    net = PICO[architecture].factory().eval().requires_grad_(False)
    net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    return net


def run_torch(
    architecture: str, states: list[dict[str, Any]], coefficients: NDArray[Any], x: NDArray[np.float32]
) -> NDArray[Any]:
    """The output of the float64 blend."""
    blend = {
        key: sum(c * state[key].astype(np.float64) for c, state in zip(coefficients, states, strict=True)) for key in states[0]
    }
    net = PICO[architecture].factory().double().eval().requires_grad_(False)
    net.load_state_dict({key: torch.from_numpy(np.asarray(value)) for key, value in blend.items()})
    output: NDArray[Any] = net(torch.from_numpy(x).double()).numpy()
    return output


@pytest.fixture
def image() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((1, 3, 28, 36), np.float32)


@pytest.mark.parametrize(("architecture", "opset"), [("compact", 14), ("rrdbnet", 17), ("transformer_net", 16)])
def test_four_onnx_files_blend_as_pytorch_does(architecture: str, opset: int, image: NDArray[Any], tmp_path: Path) -> None:
    """The export runs where torch cannot be imported; names and order differ from file to file."""
    states = pico_family(architecture, 4)
    files = {f"m{index}": tmp_path / f"m{index}.onnx" for index in range(4)}
    for index, (path, state) in enumerate(zip(files.values(), states, strict=True)):
        export_onnx(load(architecture, state), path, opset=opset)
        if index:
            scramble_names(path, index)
    child = subprocess.run(
        [sys.executable, "-c", EXPORT_WITHOUT_TORCH, str(tmp_path / "f.dni"), *(f"{name}={path}" for name, path in files.items())],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "onnx"
    with dni.open_session(tmp_path / "f.dni", threads=1) as session:
        for index, name in enumerate(files):
            expected = run_torch(architecture, states, np.eye(4)[index], image)
            assert relative_error(session.infer(image, alpha={name: 1.0}), expected) <= MAX_ERROR_MIXED
        coefficients = np.array([0.4, 0.3, 0.2, 0.1])
        mixed = session.infer(image, alpha=dict(zip(files, coefficients, strict=True)))
    assert relative_error(mixed, run_torch(architecture, states, coefficients, image)) <= MAX_ERROR_MIXED


def test_the_names_and_the_signature_are_those_of_the_file(tmp_path: Path) -> None:
    states = pico_family("compact_x2", 2)
    files = {
        name: export_onnx(load("compact_x2", state), tmp_path / f"{name}.onnx")
        for name, state in zip("ab", states, strict=True)
    }
    bundle = dni.export(files, tmp_path / "f.dni")
    own = [key for key in bundle.weight_names if key in states[0]]
    others = [key for key in bundle.weight_names if key not in states[0]]
    assert own == [key for key in states[0] if states[0][key].ndim == 4 or key.endswith(".bias")]
    assert others == ["PRelu_1.weight", "PRelu_3.weight", "PRelu_5.weight"]  # onnx::PRelu_31 in the file, which says nothing
    assert (bundle.signature.input_channels, bundle.signature.scale, bundle.manifest.opset) == (3, 2, 17)
    assert bundle.manifest.graph_facts["probe_error"] <= MAX_ERROR_ENDS
    assert all(np.array_equal(bundle.read_weights("b")[key], states[1][key]) for key in own)


def test_options_reach_the_bundle(tmp_path: Path) -> None:
    files = {name: write_model(tmp_path / f"{name}.onnx", seed) for seed, name in enumerate("ab")}
    bundle = dni.export(files, tmp_path / "f.dni", value_range=(-1, 1), residual=True, opset=18)
    assert (bundle.signature.low, bundle.signature.residual, bundle.manifest.opset) == (-1.0, True, 18)


def test_folded_batchnorm_is_noted(tmp_path: Path) -> None:
    states = pico_family("dncnn_bn", 2)
    files = {
        name: export_onnx(load("dncnn_bn", state), tmp_path / f"{name}.onnx") for name, state in zip("ab", states, strict=True)
    }
    bundle = dni.export(files, tmp_path / "f.dni")
    assert any("folded BatchNorm" in note for note in bundle.manifest.graph_facts["notes"])
    assert any(name.endswith(".weight") and name.startswith("Conv_") for name in bundle.weight_names)  # not onnx::Conv_21


def test_raw_batchnorm_blends_before_it_folds(image: NDArray[Any], tmp_path: Path) -> None:
    states = pico_family("dncnn_bn", 2)
    for name, state in zip("ab", states, strict=True):
        net = load("dncnn_bn", state)
        torch.onnx.export(
            net, (torch.rand(1, 3, 32, 32),), str(tmp_path / f"{name}.onnx"), dynamo=False, opset_version=17,
            do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
            dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}}, input_names=["x"],
        )  # fmt: skip
    bundle = dni.export({name: tmp_path / f"{name}.onnx" for name in "ab"}, tmp_path / "f.dni")
    if not any(node.op_type == "BatchNormalization" for node in bundle.read_graph().graph.node):
        pytest.skip("this PyTorch folds BatchNorm whatever it is asked")
    with dni.open_session(bundle.path, threads=1) as session:
        got = session.infer(image, alpha=0.3)
    assert relative_error(got, run_torch("dncnn_bn", states, np.array([0.3, 0.7]), image)) <= MAX_ERROR_MIXED


def test_float16_files_are_widened_with_a_note(tmp_path: Path) -> None:
    def to_float16(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16

    files = {name: write_model(tmp_path / f"{name}.onnx", seed, to_float16) for seed, name in enumerate("ab")}
    bundle = dni.export(files, tmp_path / "f.dni")
    assert any("float16" in note for note in bundle.manifest.graph_facts["notes"])
    exact = numpy_helper.to_array(make_conv_model(1).graph.initializer[0]).astype(np.float16)
    assert np.array_equal(bundle.read_weights("b")["first.weight"], exact.astype(np.float32))


def test_valid_convolutions_get_the_border_that_they_cut_off(image: NDArray[Any], tmp_path: Path) -> None:
    """As waifu2x: two convolutions without padding, then a transposed one that enlarges by 2."""
    states = []
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.LeakyReLU(0.1), nn.Conv2d(6, 6, 3), nn.ConvTranspose2d(6, 3, 4, 2, 3))
        export_onnx(net.eval(), tmp_path / f"{name}.onnx")
        states.append(net)
    bundle = dni.export({name: tmp_path / f"{name}.onnx" for name in "ab"}, tmp_path / "f.dni")
    assert (bundle.signature.scale, bundle.signature.multiple) == (2, 1)
    assert any("cut off 3 pixels on each side" in note for note in bundle.manifest.graph_facts["notes"])
    with torch.no_grad():
        expected = states[1](nn.functional.pad(torch.from_numpy(image), (3, 3, 3, 3), mode="replicate")).numpy()
    with dni.open_session(bundle.path, threads=1) as session:
        assert relative_error(session.infer(image, alpha={"b": 1.0}), expected) <= MAX_ERROR_ENDS


def test_a_border_that_is_not_the_same_on_both_sides_is_refused(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        export_onnx(nn.Conv2d(3, 3, 4).eval(), tmp_path / f"{name}.onnx")
    with pytest.raises(MismatchError, match="signature could not be measured"):
        dni.export({name: tmp_path / f"{name}.onnx" for name in "ab"}, tmp_path / "f.dni")


def test_ncnn_files_become_a_bundle(image: NDArray[Any], tmp_path: Path) -> None:
    layers = [
        "Input in 0 1 in",
        "Convolution conv1 1 1 in a 0=4 1=3 4=1 5=1 6=108 9=2 -23310=1,1.000000e-01",
        "Deconvolution up 1 1 a out 0=3 1=4 3=2 4=1 5=1 6=192",
    ]
    nets = []
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        conv, up = nn.Conv2d(3, 4, 3, padding=1).half().float(), nn.ConvTranspose2d(4, 3, 4, 2, 1).half().float()
        nets.append(nn.Sequential(conv, nn.LeakyReLU(0.1), up).requires_grad_(False))
        arrays = [conv.weight, conv.bias, up.weight.transpose(0, 1), up.bias]
        storage = ["float16", "plain", "float16", "plain"]
        pairs = [(array.detach().numpy(), kind) for array, kind in zip(arrays, storage, strict=True)]
        write_ncnn(tmp_path / f"{name}.param", layers, pairs)
    bundle = dni.export({name: tmp_path / f"{name}.param" for name in "ab"}, tmp_path / "f.dni")
    assert bundle.architecture == "ncnn"
    assert bundle.weight_names == ("conv1.weight", "conv1.bias", "up.weight", "up.bias")
    blend = {key: 0.3 * value + 0.7 * nets[1].state_dict()[key] for key, value in nets[0].double().state_dict().items()}
    nets[0].load_state_dict(blend)
    with dni.open_session(bundle.path, threads=1) as session:
        got = session.infer(image, alpha=0.3)
    assert relative_error(got, nets[0](torch.from_numpy(image).double()).numpy()) <= MAX_ERROR_MIXED


def test_what_cannot_be_a_family_is_refused(tmp_path: Path) -> None:
    one = write_model(tmp_path / "a.onnx")
    two = write_model(tmp_path / "b.onnx", 1)
    with pytest.raises(UsageError, match=r"'a' is a file with a graph .* and 'c' is not"):
        dni.export({"a": one, "c": {"w": np.ones(3, np.float32)}}, tmp_path / "f.dni")
    with pytest.raises(UsageError, match="An architecture and a key are for checkpoints"):
        dni.export({"a": one, "b": two}, tmp_path / "f.dni", arch="rrdbnet")
    with pytest.raises(UsageError, match="2 to 16 members, 1 given"):
        dni.export({"a": one}, tmp_path / "f.dni")
    for name, seed in (("s", 0), ("t", 1)):
        write_model(tmp_path / f"{name}.onnx", seed, sizes=("n", 3, 64, 64))
    with pytest.raises(InputError, match=r"s\.onnx takes images of 64 x 64 pixels alone; export it with dynamic height"):
        dni.export({name: tmp_path / f"{name}.onnx" for name in "st"}, tmp_path / "f.dni")
    assert not (tmp_path / "f.dni").exists()


def test_a_batch_of_one_is_made_dynamic(tmp_path: Path) -> None:
    files = {name: write_model(tmp_path / f"{name}.onnx", seed, sizes=(1, 3, "h", "w")) for seed, name in enumerate("ab")}
    bundle = dni.export(files, tmp_path / "f.dni")
    assert bundle.read_graph().graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"


def test_the_command_prints_the_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"{name}={write_model(tmp_path / f'{name}.onnx')}" for name in "ab"]
    assert main(["export", *files, "-o", str(tmp_path / "f.dni")]) == 0
    assert "b has the same numbers as a" in capsys.readouterr().out


def test_permuted_files_are_aligned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A U-net with a gate as .onnx files: the second has the first one's weights with noise, and its channels in another order."""
    graph = ChannelGraph()
    top = graph.node("Relu", [graph.conv("x", 8)])
    low = graph.prelu(graph.conv(graph.node("MaxPool", [top], kernel_shape=[2, 2], strides=[2, 2]), 10))
    large = graph.node("ConvTranspose", [low, graph.weight("up.weight", 10, 6, 2, 2)], 6, strides=[2, 2])
    joined = graph.conv(graph.node("Concat", [large, top], 14, axis=1), 12)
    halves = graph.node("Split", [joined], 6, outputs=2, axis=1, num_outputs=2)
    model = graph.model(graph.conv(graph.node("Mul", halves), 3), ("h", "w"))
    groups = find_channel_groups(model, graph.weights)
    random = np.random.default_rng(0)
    near = {
        name: value + np.float32(0.02) * random.standard_normal(value.shape, np.float32)
        for name, value in graph.weights.items()
    }
    permuted = permute_tensors(near, groups, [np.roll(np.arange(size), 1) for size in groups.sizes])
    files = {}
    for name, weights in (("a", graph.weights), ("near", near), ("b", permuted)):
        files[name] = tmp_path / f"{name}.onnx"
        files[name].write_bytes(bind_initializers(model, weights).SerializeToString())
    written = files["b"].read_bytes()
    plain = dni.export({"a": files["a"], "b": files["near"]}, tmp_path / "plain.dni")
    arguments = [f"{name}={files[name]}" for name in "ab"]
    assert main(["export", *arguments, "--align", "-o", str(tmp_path / "aligned.dni")]) == 0

    note = "b: 30 of 30 channels were moved to the places that they have in a."
    assert note in capsys.readouterr().out
    bundle = dni.Bundle.open(tmp_path / "aligned.dni")
    for name, value in plain.read_weights("b").items():
        assert np.array_equal(bundle.read_weights("b")[name], value)
    assert files["b"].read_bytes() == written
    assert bundle.manifest.graph_facts["alignment"] == {"with": "a", "members": {"b": {"moved": 30, "channels": 30}}}
    assert note in bundle.manifest.graph_facts["notes"]
    assert main(["inspect", str(bundle.path)]) == 0
    assert "b (30 of 30 channels moved) with a" in capsys.readouterr().out
    assert dni.inspect(plain.path).alignment is None


def test_what_cannot_be_aligned_writes_nothing(tmp_path: Path) -> None:
    graph = ChannelGraph()
    model = graph.model(graph.conv("x", 3), ("h", "w"))
    paths = {name: tmp_path / f"{name}.onnx" for name in "ab"}
    for path in paths.values():
        path.write_bytes(model.SerializeToString())
    with pytest.raises(MismatchError, match="no channel is known to be movable"):
        dni.export(paths, tmp_path / "x.dni", align=True)
    assert not (tmp_path / "x.dni").exists()

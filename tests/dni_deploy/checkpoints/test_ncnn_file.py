"""ncnn networks become ONNX graphs that compute what PyTorch, or NumPy, computes for each layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dni_deploy.checkpoints import ncnn_file as module
from dni_deploy.checkpoints.ncnn_file import read_ncnn_file
from dni_deploy.errors import CheckpointError, DniError, LimitError
from tests.support.graph_files import write_ncnn

INPUT = "Input in 0 1 in 0=12 1=8 2=4"
MAX_ERROR = 1e-5
"""float32 on both sides."""


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def run(path: Path, x: Tensor) -> NDArray[Any]:
    model = read_ncnn_file(path).model
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    return output


W33, BIAS = tensor(6, 4, 3, 3), tensor(6, seed=1)
DEEP, UP = tensor(4, 1, 3, 3), tensor(4, 6, 4, 4)
SLOPE, PIXELS, SQUEEZE, EXCITE = tensor(4, seed=2), tensor(16, 4, 1, 1), tensor(2, 4, seed=3), tensor(4, 2, seed=4)
ONES_LAYER, ONES = "Scale z 1 1 in i 0=4", torch.ones(4)
"""A network without any weight has an empty .bin, which is an error."""
Weights = list[tuple[Tensor, str]]
CASES: dict[str, tuple[list[str], Weights, Callable[[Tensor], Tensor]]] = {
    "convolution": (
        ["Convolution c 1 1 in y 0=6 1=3 2=2 3=2 4=2 5=1 6=216"],
        [(W33, "float32"), (BIAS, "plain")],
        lambda x: F.conv2d(x, W33, BIAS, 2, 2, 2),
    ),
    "leaky": (
        ["Convolution c 1 1 in y 0=6 1=3 5=0 6=216 9=2 -23310=1,0.200000"],
        [(W33, "float32")],
        lambda x: F.leaky_relu(F.conv2d(x, W33), 0.2),
    ),
    "sides": (
        ["Convolution c 1 1 in y 0=6 1=3 4=1 14=2 15=0 16=3 6=216 9=1"],
        [(W33, "float32")],
        lambda x: F.relu(F.conv2d(F.pad(x, (1, 0, 2, 3)), W33)),
    ),
    "float16": (
        ["Convolution c 1 1 in y 0=6 1=3 6=216 9=4"],
        [(W33, "float16")],
        lambda x: torch.sigmoid(F.conv2d(x, W33.half().float())),
    ),
    "depthwise": (
        ["ConvolutionDepthWise c 1 1 in y 0=4 1=3 4=1 6=36 7=4 9=3 -23310=2,-0.1,0.1"],
        [(DEEP, "float32")],
        lambda x: F.conv2d(x, DEEP, padding=1, groups=4).clamp(-0.1, 0.1),
    ),
    "deconvolution": (
        ["Deconvolution c 1 1 in y 0=6 1=4 3=2 4=1 5=1 6=384 18=1 19=1"],
        [(UP.transpose(0, 1), "float32"), (BIAS, "plain")],
        lambda x: F.conv_transpose2d(x, UP, BIAS, 2, 1, 1),
    ),
    "activations": (
        [
            "PReLU p 1 1 in a 0=4", "ReLU r 1 1 a b 0=0.3", "Sigmoid s 1 1 b c", "TanH t 1 1 c d", "Clip k 1 1 d e 0=-0.5 1=0.6",
            "ReLU q 1 1 e f", "Dropout o 1 1 f y",
        ],
        [(SLOPE, "plain")],
        lambda x: F.relu(torch.tanh(torch.sigmoid(F.leaky_relu(F.prelu(x, SLOPE), 0.3))).clamp(-0.5, 0.6)),
    ),
    "arithmetic": (
        [
            "Split s 1 5 in a b c d k", "BinaryOp m 2 1 a b e 0=2", "BinaryOp r 1 1 e f 0=7 1=1 2=1.5",
            "Eltwise w 2 1 f c g 0=1 -23301=2,0.2,1.0",
            "Eltwise v 2 1 g d h 0=0", "Scale z 1 1 h i 0=4 1=1", "Concat t 2 1 i k y",
        ],
        [(SLOPE, "plain"), (SLOPE, "plain")],
        lambda x: torch.cat([(0.2 * (1.5 - x * x) + x) * x * SLOPE.reshape(4, 1, 1) + SLOPE.reshape(4, 1, 1), x], 1),
    ),
    "attention": (
        [
            "Split s 1 2 in a b", "Pooling g 1 1 a c 0=1 4=1", "InnerProduct d 1 1 c e 0=2 1=0 2=8 9=1",
            "InnerProduct u 1 1 e f 0=4 1=1 2=8 9=4", "Scale m 2 1 b f y 0=-233",
        ],
        [(SQUEEZE, "float16"), (EXCITE, "float16"), (SLOPE, "plain")],
        lambda x: x * torch.sigmoid(
            F.linear(F.relu(F.linear(x.mean((2, 3)), SQUEEZE.half().float())), EXCITE.half().float(), SLOPE)
        ).reshape(-1, 4, 1, 1),
    ),
    "crops": (
        [
            ONES_LAYER, "Split s 1 3 i a b q", "Crop o 1 1 a c -23309=2,1,2 -23310=2,-1,-2 -23311=2,-2,-1", "Split t 1 2 c u v",
            "Crop r 2 1 b u d 0=2 1=1",
            "Crop w 1 1 q e 0=2 1=1 3=-233 4=-233 5=-233 6=2 7=1", "BinaryOp m 2 1 v d f 0=0", "BinaryOp n 2 1 e f y 0=0",
        ],
        [(ONES, "plain")],
        lambda x: 3 * x[:, :, 1:-1, 2:-2],
    ),
    "sizes": (
        ["Convolution c 1 1 in a 0=16 1=1 6=64", "PixelShuffle p 1 1 a b 0=2", "Interp n 1 1 b y 0=1 1=2.0 2=3.0"],
        [(PIXELS, "float32")],
        lambda x: F.interpolate(F.pixel_shuffle(F.conv2d(x, PIXELS), 2), scale_factor=(2.0, 3.0), mode="nearest"),
    ),
    "smooth": (
        [ONES_LAYER, "Interp l 1 1 i a 0=2 1=2.0 2=2.0", "Interp c 1 1 a y 0=3 1=0.5 2=0.5"],
        [(ONES, "plain")],
        lambda x: F.interpolate(F.interpolate(x, scale_factor=2.0, mode="bilinear"), scale_factor=0.5, mode="bicubic"),
    ),
    "padding": (
        [ONES_LAYER, "Padding p 1 1 i a 0=1 1=2 2=3 3=4 4=1", "Padding q 1 1 a b 0=1 1=1 2=1 3=1 4=2", "Padding r 1 1 b y 0=1 5=0.5"],
        [(ONES, "plain")],
        lambda x: F.pad(F.pad(F.pad(x, (3, 4, 1, 2), "replicate"), (1, 1, 1, 1), "reflect"), (0, 0, 1, 0), value=0.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_layers_compute_what_pytorch_computes(case: str, tmp_path: Path) -> None:
    layers, weights, expected = CASES[case]
    path = write_ncnn(tmp_path / "a.param", [INPUT, *layers], [(array.contiguous().numpy(), kind) for array, kind in weights])
    x = torch.rand(2, 4, 8, 12, generator=torch.Generator().manual_seed(5))
    got, want = run(path, x), expected(x).numpy()
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= MAX_ERROR


def test_names_notes_and_the_channels_of_an_input_that_states_none(tmp_path: Path) -> None:
    layers = ["Input data 0 1 data", "Convolution c 1 1 data y 0=6 1=3 5=1 6=216"]
    file = read_ncnn_file(write_ncnn(tmp_path / "a.param", layers, [(W33.numpy(), "float16"), (BIAS.numpy(), "plain")]))
    assert [tensor.name for tensor in file.model.graph.initializer] == ["c.weight", "c.bias"]
    assert file.model.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 4
    assert (file.format, file.notes) == ("ncnn", ("Its weights are stored as float16.",))


CONVOLUTION = "Convolution c 1 1 in y 0=6 1=3 6=216"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["LSTM c 1 1 in y"], r"layer 'c' \(LSTM\) is of a type that is not supported"),
        (["ReLU c 1 1 other y"], "reads 'other', which no layer before it makes"),
        (["ReLU c 1 1 in y", "ReLU d 1 1 in z"], "has 2 outputs"),
        (["Input i 0 1 more"], "a second input"),
        (["Convolution c 1 1 in y 0=6 1=3 6=217"], "number of weights that does not fit"),
        (["Convolution c 1 1 in y 0=0 1=3 6=216"], "number of weights that does not fit"),
        (["Convolution c 1 1 in y 0=6 1=3 4=-233 6=216"], "padding that depends on the size"),
        (["Convolution c 1 1 in y 0=6 1=3 6=216 8=1"], "quantized"),
        (["Convolution c 1 1 in y 0=6 1=3 6=216 9=77"], "the activation 77"),
        (["InnerProduct c 1 1 in y 0=2 2=8"], "behind a global pooling alone"),
        (["Pooling c 1 1 in y 0=0 1=2"], "is not a global pooling"),
        (["Concat c 1 1 in y 0=1"], "an axis that is not the channels"),
        (["Crop c 1 1 in y 0=1 1=1 3=5 4=5"], "cuts to a fixed size"),
        (["Crop c 1 1 in y 0=1 1=1 6=1 7=1"], "cuts to a fixed size"),
        (["Crop c 1 1 in y -23309=1,1 -23310=1,-1 -23311=1,0"], "cuts channels"),
        (["Interp c 1 1 in y 0=1 3=8 4=8"], "enlarges to a fixed size"),
        (["ReLU c 1 1 in y 0"], "damaged or not an ncnn .param"),
        (["ReLU c 1 1 in y 0=nan"], "damaged or not an ncnn .param"),
        (["ReLU c 1 1 in y 0=1e99"], "damaged or not an ncnn .param"),
        (["ReLU c 9 1 in y"], "damaged or not an ncnn .param"),
        (["Clip c 1 1 in y -23300=1,2"], "has an array as its parameter 0"),
    ],
)
def test_what_cannot_be_translated_is_refused(layers: list[str], message: str, tmp_path: Path) -> None:
    path = write_ncnn(tmp_path / "a.param", [INPUT, *layers], [(W33.numpy(), "float32")])
    with pytest.raises(CheckpointError, match=message):
        read_ncnn_file(path)


def test_files_of_two_networks_are_told_apart(tmp_path: Path) -> None:
    path = write_ncnn(tmp_path / "a.param", [INPUT, CONVOLUTION], [(W33.numpy(), "float32")])
    data = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(data + b"more")
    with pytest.raises(CheckpointError, match="the two are not of one network"):
        read_ncnn_file(path)
    path.with_suffix(".bin").write_bytes(data[:-4])
    with pytest.raises(CheckpointError, match="ends before the last weight"):
        read_ncnn_file(path)
    path.with_suffix(".bin").write_bytes(b"\x38\x4b\x0d\x00" + data[4:])  # int8
    with pytest.raises(CheckpointError, match="quantized or damaged"):
        read_ncnn_file(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=r"a\.bin does not exist"):
        read_ncnn_file(path)


def test_a_damaged_param_is_an_error_of_ours(tmp_path: Path) -> None:
    lines = [INPUT, CONVOLUTION, "Crop d 1 1 y z -23309=2,1,2 -23310=2,-1,-2 -23311=2,-2,-1"]
    path = write_ncnn(tmp_path / "a.param", lines, [(W33.numpy(), "float32")])
    text = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(text)
        for _ in range(3):
            data[rng.integers(len(data))] = rng.choice(list(b"0123456789-=., \ne\xff"))
        path.write_bytes(bytes(data))
        try:
            read_ncnn_file(path)
        except DniError:
            continue


def test_a_huge_param_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ncnn(tmp_path / "a.param", [INPUT, CONVOLUTION], [(W33.numpy(), "float32")])
    monkeypatch.setattr(module, "MAX_PARAM_BYTES", 10)
    with pytest.raises(LimitError, match="the limit for an ncnn"):
        read_ncnn_file(path)

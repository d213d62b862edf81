"""Controls of .onnx files: inputs beside the image, and planes behind its channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import dni_deploy as dni
from dni_deploy.errors import CheckpointError, MismatchError

STYLES, X = 4, np.random.default_rng(0).random((1, 3, 10, 12), np.float32)
DECLARED = ["noise=0..1@0", "style:4=0..1@0", "style.2=0..1@1", "step=0..9@4"]


def write_file(path: Path, seed: int) -> Path:
    """A convolution over an image and a plane of noise; its bias is a mixture of four styles, times an integer."""
    random = np.random.default_rng(seed)
    weights = {
        "conv.weight": random.standard_normal((3, 4, 3, 3)).astype(np.float32),
        "styles": random.standard_normal((STYLES, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["style", "styles"], ["shift"]),
        helper.make_node("Cast", ["step"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["shift", "count"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["bias"]),
        helper.make_node("Conv", ["image", "conv.weight"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["convolved", "bias"], ["output"]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([-1, 3, 1, 1]), "shape"))
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 4, "h", "w"]),
        helper.make_tensor_value_info("style", TensorProto.FLOAT, ["n", STYLES]),
        helper.make_tensor_value_info("step", TensorProto.INT64, [1]),
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 3, "h", "w"])
    graph = helper.make_graph(nodes, "graph", inputs, [output], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def run_file(path: Path, x: np.ndarray, noise: float, style: list[float], step: int) -> np.ndarray:
    image = np.concatenate([x, np.full_like(x[:, :1], noise)], 1)
    inputs = {"image": image, "style": np.array([style], np.float32), "step": np.array([step])}
    return onnxruntime.InferenceSession(str(path)).run(None, inputs)[0]


def test_family_of_files_with_inputs_beside_the_image(tmp_path: Path) -> None:
    files = {name: write_file(tmp_path / f"{name}.onnx", seed) for seed, name in enumerate("ab")}
    bundle = dni.export(files, tmp_path / "f.dni", controls=DECLARED)
    assert bundle.signature.takes_frames
    with dni.open_session(bundle, engine="onnxruntime") as session:
        for member, path in files.items():
            session.alpha = {member: 1.0}
            for noise, style, step in ((0.0, [0, 0, 1, 0], 4), (0.5, [0.25, 0.5, 0, 0.25], 0), (1.0, [1, 0, 0, 0], 9)):
                session.controls = {"noise": noise, "step": step, **{f"style.{i}": share for i, share in enumerate(style)}}
                expected = run_file(path, X, noise, style, step)
                assert np.abs(session.infer(X) - expected).max() <= 1e-6 * np.abs(expected).max()  # float32


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (["noise=0..1"], "3 inputs|2 inputs"),
        (["style=0..1", "step=0..9"], r"'style' of shape \('\?', 4\), which is not of 1 numbers; write --control style:COUNT"),
        ([*DECLARED, "a:4=0..1"], "no input named as the controls .* inputs are image, style, step"),
    ],
)
def test_controls_that_do_not_fit_are_refused(declared: list[str], message: str, tmp_path: Path) -> None:
    files = {name: write_file(tmp_path / f"{name}.onnx", seed) for seed, name in enumerate("ab")}
    with pytest.raises((CheckpointError, MismatchError), match=message):
        dni.export(files, tmp_path / "f.dni", controls=declared)
    assert not (tmp_path / "f.dni").exists()


def test_input_without_control_is_named(tmp_path: Path) -> None:
    files = {name: write_file(tmp_path / f"{name}.onnx", seed) for seed, name in enumerate("ab")}
    with pytest.raises(CheckpointError, match=r"3 inputs and 1 outputs; .* as controls: --control style=LOW..HIGH"):
        dni.export(files, tmp_path / "f.dni")

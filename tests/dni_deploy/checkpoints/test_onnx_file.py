"""An .onnx file is read without being run, and what cannot be blended is refused with one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.checkpoints import onnx_file as module
from dni_deploy.checkpoints.onnx_file import read_onnx_file
from dni_deploy.errors import CheckpointError, DniError, LimitError, RefusedError
from tests.support.graph_files import make_conv_model, write_model


def set_operator(name: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[1].op_type, model.graph.node[1].domain = name, domain

    return change


def add_subgraph(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Something", ["result"], ["other"], body=body))


def add_function(model: onnx.ModelProto) -> None:
    model.functions.add().name = "f"


def make_double(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def cast_to_bfloat16(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["result"], ["other"], to=TensorProto.BFLOAT16))


def set_unknown_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 76


def read_what_nothing_makes(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_operator("Evil", "com.example"), "has the operator 'Evil' of 'com.example'; only operators of the ONNX standard"),
        (set_operator("If"), "has the operator 'If', which is control flow"),
        (add_subgraph, "has the operator 'Something', which is control flow"),
        (set_operator("QLinearConv"), "is quantized: it has the operator 'QLinearConv'"),
        (set_operator("QuantizeLinear"), "is quantized"),
        (add_function, "defines functions of its own"),
        (make_double, "computes in DOUBLE; families of ONNX files are float32 or float16"),
        (cast_to_bfloat16, "computes in BFLOAT16"),
        (set_unknown_type, "has the element type 76, which is not known"),
        (read_what_nothing_makes, "is not a valid ONNX graph"),
    ],
)
def test_what_cannot_be_blended_is_refused(change: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.onnx", 0, change)
    with pytest.raises(CheckpointError, match=message):
        read_onnx_file(path)


@pytest.mark.parametrize("data", [b"\x08\x07", b"PK\x03\x04 no graph", bytes(range(256)) * 8])
def test_damaged_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged or not an ONNX file"):
        read_onnx_file(path)


def test_every_cut_file_is_an_error_of_ours(tmp_path: Path) -> None:
    data = make_conv_model().SerializeToString()
    for length in range(1, len(data), 37):
        (tmp_path / "a.onnx").write_bytes(data[:length])
        with pytest.raises(DniError):
            read_onnx_file(tmp_path / "a.onnx")


def write_with_external_data(folder: Path, location: str | None = None) -> Path:
    onnx.save(
        make_conv_model(), str(folder / "a.onnx"), save_as_external_data=True, location="a.data", size_threshold=0
    )  # fmt: skip
    if location is not None:
        model = onnx.load(str(folder / "a.onnx"), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        (folder / "a.onnx").write_bytes(model.SerializeToString())
    return folder / "a.onnx"


def test_external_data_in_the_folder_is_read(tmp_path: Path) -> None:
    file = read_onnx_file(write_with_external_data(tmp_path))
    expected = make_conv_model().graph.initializer
    for tensor, twin in zip(file.model.graph.initializer, expected, strict=True):
        assert np.array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(twin))


@pytest.mark.parametrize("name", [b"Conv", b"first.weight", b"image", b"gain_of_features"])
def test_names_that_are_no_text_are_refused(name: bytes, tmp_path: Path) -> None:
    data = make_conv_model().SerializeToString()
    (tmp_path / "a.onnx").write_bytes(data.replace(name, b"\xed" + name[1:]))
    with pytest.raises(CheckpointError, match=r"damaged|not a valid ONNX graph"):
        read_onnx_file(tmp_path / "a.onnx")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", "link", ""])
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(10_000))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    path = write_with_external_data(folder, location)
    with pytest.raises(RefusedError, match="which is not in its own folder"):
        read_onnx_file(path)


def test_external_data_that_is_cut_is_an_error(tmp_path: Path) -> None:
    path = write_with_external_data(tmp_path)
    (tmp_path / "a.data").write_bytes(bytes(10))
    with pytest.raises(CheckpointError, match=r"beyond the end of .*a\.data"):
        read_onnx_file(path)


def test_a_file_beyond_the_limit_of_protobuf_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "a.onnx")
    monkeypatch.setattr(module, "MAX_MODEL_BYTES", 100)
    with pytest.raises(LimitError, match="the limit for an ONNX file is 100"):
        read_onnx_file(path)

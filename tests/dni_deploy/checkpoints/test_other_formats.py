"""Other formats: what lies beside checkpoints in model folders is named by its content."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from dni_deploy.checkpoints.other_formats import describe_folder, describe_other_format
from dni_deploy.errors import CheckpointError
from tests.support.reading_files import assert_refused


def onnx_bytes(**fields: str) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]), **fields)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (onnx_bytes(), "an ONNX graph"),
        (onnx_bytes(producer_name="pytorch"), "an ONNX graph"),
        (onnx_bytes(domain="d", doc_string="x"), "an ONNX graph"),
        (b"7767517\n3 3\nInput data 0 1 data\n", "ncnn network (.param)"),
        (b"\x47\x6b\x30\x01" + bytes(60), "ncnn network (.bin)"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(20), "TensorFlow Lite"),
        (b"ftrt" + bytes(40), "TensorRT engine"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_a_format_is_named_by_its_content(content: bytes, words: str, tmp_path: Path) -> None:
    assert words in (describe_other_format(content[:1024]) or "")
    (tmp_path / "x.pth").write_bytes(content)
    assert_refused(tmp_path / "x.pth", CheckpointError, "is not a checkpoint: it is", words)


def test_other_bytes_are_not_named() -> None:
    assert describe_other_format(b"\x08\x02\xff\xff") is None
    assert describe_other_format(b"\x80\x02}q\x00.") is None
    assert describe_other_format(b"PK\x03\x04") is None
    assert describe_other_format(b"\x08") is None


def test_folders_are_named(tmp_path: Path) -> None:
    assert describe_folder(tmp_path) == "a folder; give the checkpoint file in it"
    (tmp_path / "model.safetensors.index.json").touch()
    assert describe_folder(tmp_path) == "a folder; give model.safetensors.index.json in it"
    for name in (".metadata", "__0_0.distcp"):
        (tmp_path / name).touch()
    assert "torch.distributed.checkpoint" in describe_folder(tmp_path)
    assert_refused(tmp_path, CheckpointError, "dcp_to_torch")

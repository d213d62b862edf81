"""Other formats: what lies beside checkpoints in model folders is named by its content."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from dni_deploy.checkpoints.other_formats import describe_by_name, describe_folder, describe_other_format
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
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"lmgg" + bytes(20), "GGML"),
        (b"GIF89a" + bytes(20), "GIF image"),
        (b"BM" + bytes(40), "BMP image"),
        (b"II*\0" + bytes(40), "TIFF image"),
        (b"RIFF\x20\0\0\0WEBPVP8 ", "WebP image"),
        (b"\0\0\0\x18ftypisom" + bytes(20), ".mp4"),
        (b"\x1aE\xdf\xa3" + bytes(20), "Matroska"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "unpack it first"),
        (b'\x2c\x01\0\0{"description": "Ultralytics"}ftrt', "TensorRT engine"),
        (b"MATLAB 5.0 MAT-file", "MATLAB"),
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


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("old.trt", b"\0\1\2\3" * 40, "TensorRT engine"),
        ("net.engine", b"\0\1\2\3" * 40, "TensorRT engine"),
        ("net.param", b"3 3\nInput data 0 1 data\n", "ncnn"),
        ("saved_model.pb", b"\x08\x01\x12\xb4\x02\n\x1c\n\x05Const", "TensorFlow"),
        ("net.mlmodel", b"\x08\x01\x12\x10" + bytes(100), "Core ML"),
        ("net.caffemodel", b"\n\x08deploynet\xa2\x06" + bytes(40), "Caffe"),
        ("README.md", b"# a title\n", "a text file"),
        ("options.yml", "name: größe\n".encode() * 90, "a text file"),
    ],
)
def test_a_format_without_a_mark_is_named_by_its_suffix(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, CheckpointError, "is not a checkpoint: it is", words)


def test_a_graph_of_openvino_is_no_web_page(tmp_path: Path) -> None:
    (tmp_path / "net.xml").write_bytes(b'<?xml version="1.0"?>\n<net name="Model0" version="11">\n<layers>')
    assert_refused(tmp_path / "net.xml", CheckpointError, "OpenVINO", ".onnx")


def test_the_head_of_a_safetensors_file_is_no_other_format() -> None:
    for letters in (b"BM", b"MZ", b"II*", b"BZh"):
        assert describe_other_format(letters.ljust(8, b"\0") + b'{"a":') is None
    assert describe_by_name("net.pth", b"\0\1\2\3\xff") is None


def test_folders_are_named(tmp_path: Path) -> None:
    assert describe_folder(tmp_path) == "a folder; give the checkpoint file in it"
    (tmp_path / "model.safetensors.index.json").touch()
    assert describe_folder(tmp_path) == "a folder; give model.safetensors.index.json in it"
    for name in (".metadata", "__0_0.distcp"):
        (tmp_path / name).touch()
    assert "torch.distributed.checkpoint" in describe_folder(tmp_path)
    assert_refused(tmp_path, CheckpointError, "dcp_to_torch")

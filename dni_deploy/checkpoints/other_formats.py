"""Formats that lie beside checkpoints in model folders and are not read, recognized by content to be named in the error."""

from __future__ import annotations

import os
import re
from pathlib import Path

_KINDS_BY_MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "gzip-compressed; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x89HDF": "an HDF5 file (Keras), not a PyTorch checkpoint",
    b"GGUF": "a GGUF file, not a PyTorch checkpoint",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a NumPy array without names",
    b"ftrt": "a TensorRT engine, whose weights cannot be read back; give the checkpoints that it was built from",
    b"ptrt": "a TensorRT engine, whose weights cannot be read back; give the checkpoints that it was built from",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"\x1aE\xdf\xa3": "a Matroska video",
    b"MZ": "a Windows program",
    b"\x7fELF": "a program or library",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unpack it first",
    b"\xfd7zXZ": "xz-compressed; unpack it first",
    b"BZh": "bzip2-compressed; unpack it first",
    b"lmgg": "a GGML file, not a PyTorch checkpoint",
    b"MATLAB 5.0": "a MATLAB file, not a PyTorch checkpoint",
}
_NCNN_PARAM_MAGIC = b"7767517"
_NCNN_FLOAT16_FLAG = (0x01306B47).to_bytes(4, "little")
"""Before the float16 weights of a layer in an ncnn .bin file. Source: ncnn, src/modelbin.cpp."""

_KINDS_BY_SUFFIX = {
    **dict.fromkeys((".engine", ".trt", ".plan"), _KINDS_BY_MAGIC[b"ftrt"]),
    ".param": "an ncnn network in a form that is not read; convert it with ncnn's ncnnoptimize first",
    ".pb": "a TensorFlow graph, not a PyTorch checkpoint",
    **dict.fromkeys((".caffemodel", ".prototxt"), "a Caffe network, not a PyTorch checkpoint"),
    **dict.fromkeys((".mlmodel", ".mlpackage"), "a Core ML network, not a PyTorch checkpoint"),
    ".mnn": "an MNN network, not a PyTorch checkpoint",
    **dict.fromkeys((".pdmodel", ".pdiparams", ".pdparams"), "a Paddle network, not a PyTorch checkpoint"),
    ".t7": "a file of Torch 7; load it there and save it as tensors by name",
    **dict.fromkeys((".msgpack", ".orbax"), "a Flax checkpoint, not a PyTorch checkpoint"),
    **dict.fromkeys((".index", ".meta"), "a part of a TensorFlow checkpoint, not a PyTorch checkpoint"),
    ".ggml": _KINDS_BY_MAGIC[b"lmgg"],
}
"""For formats whose content has no mark of its own; only asked where the content could not be read."""

_GRAPH_ADVICE = "`dni-deploy export` makes a bundle where all members are such files, named .onnx or .param"


def describe_other_format(head: bytes) -> str | None:
    """Describes what a file is that is no checkpoint.

    Args:
        head: Its first 1,024 bytes.

    Returns:
        Such as "a GGUF file"; None where the content is of none of the known other formats.
    """
    if head[5:9] == b"\0\0\0{":  # the length of a safetensors header may begin with any two letters
        return None
    if _looks_like_onnx(head):
        return f"an ONNX graph; {_GRAPH_ADVICE}"
    if head.lstrip().startswith(_NCNN_PARAM_MAGIC):
        return f"the graph of an ncnn network (.param); {_GRAPH_ADVICE}"
    if head.startswith(_NCNN_FLOAT16_FLAG):
        return "the weights of an ncnn network (.bin) without names; give the .param file beside it to `dni-deploy export`"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model, not a PyTorch checkpoint"
    if head[4:8] == b"ftyp":
        return "a video or an image, .mp4 or .avif"
    if head.startswith(b"RIFF") and head[8:12] in (b"WEBP", b"AVI "):
        return "a WebP image" if head[8:12] == b"WEBP" else "an AVI video"
    if head[3:5] == b"\0{" and b'"' in head[5:9]:
        return f"{_KINDS_BY_MAGIC[b'ftrt']} (by Ultralytics)"
    return next((kind for magic, kind in _KINDS_BY_MAGIC.items() if head.startswith(magic)), None)


def describe_by_name(name: str, head: bytes) -> str | None:
    """Describes a file whose content could not be read as a checkpoint.

    Args:
        name: Its name.
        head: Its first 1,024 bytes.

    Returns:
        Such as "a Caffe network, not a PyTorch checkpoint"; None where neither the suffix nor the content tells.
    """
    kind = _KINDS_BY_SUFFIX.get(Path(name).suffix.lower())
    if kind is not None or not head:
        return kind
    try:
        text = head[:1000].decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        if error.start < len(head[:1000]) - 3:  # else a character that the cut went through
            return None
        text = head[: error.start].decode("utf-8")
    return "a text file" if all(character.isprintable() or character in "\r\n\t" for character in text) else None


def _looks_like_onnx(head: bytes) -> bool:
    """A protobuf that begins with a small ir_version, then the producer, the domain or the graph (fields 2 to 8 of ModelProto).

    Core ML's and TensorFlow's files begin alike; theirs goes on with a message where this has the producer's name.
    """
    if len(head) < 4 or head[0] != 0x08 or not 1 <= head[1] <= 30:
        return False
    if head[2] == 0x12:
        return head[3] < 0x80 and all(0x20 <= byte < 0x7F for byte in head[4 : 4 + head[3]])
    return head[2] in (0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)


def describe_json(value: object) -> str:
    """Describes a parsed JSON file that is no index of shards."""
    if isinstance(value, dict) and {"modelTopology", "weightsManifest"} & set(value):
        return "a TensorFlow.js model, not a PyTorch checkpoint"
    return "a JSON file, without tensors"


def describe_folder(path: str | os.PathLike[str]) -> str:
    """Describes a folder, and what to give in its place."""
    try:
        names = sorted(os.listdir(path))
    except OSError:
        names = []
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return (
            "a folder of torch.distributed.checkpoint; convert it once with "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth`"
        )
    index = next((name for name in names if name.endswith(".index.json")), None)
    return f"a folder; give {index if index else 'the checkpoint file'} in it"


def find_index_name(path: str | os.PathLike[str]) -> tuple[str, str, str] | None:
    """Splits the name of one shard of a checkpoint.

    Returns:
        The number of the shard, how many there are, and the name of the index file that lists them, such as
        ("00001", "00002", "model.safetensors.index.json"); None where the file is not one of several.
    """
    match = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.(\w+)", Path(path).name)
    if match is None or int(match[3]) < 2:
        return None
    return match[2], match[3], f"{match[1]}.{match[4]}.index.json"

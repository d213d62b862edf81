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
}
_NCNN_PARAM_MAGIC = b"7767517"
_NCNN_FLOAT16_FLAG = (0x01306B47).to_bytes(4, "little")
"""Before the float16 weights of a layer in an ncnn .bin file. Source: ncnn, src/modelbin.cpp."""

_GRAPH_ADVICE = "`dni-deploy export` makes a bundle where all members are such files, named .onnx or .param"


def describe_other_format(head: bytes) -> str | None:
    """Describes what a file is that is no checkpoint.

    Args:
        head: Its first 1,024 bytes.

    Returns:
        Such as "a GGUF file"; None where the content is of none of the known other formats.
    """
    if _looks_like_onnx(head):
        return f"an ONNX graph; {_GRAPH_ADVICE}"
    if head.lstrip().startswith(_NCNN_PARAM_MAGIC):
        return f"the graph of an ncnn network (.param); {_GRAPH_ADVICE}"
    if head.startswith(_NCNN_FLOAT16_FLAG):
        return "the weights of an ncnn network (.bin) without names; give the .param file beside it to `dni-deploy export`"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model, not a PyTorch checkpoint"
    return next((kind for magic, kind in _KINDS_BY_MAGIC.items() if head.startswith(magic)), None)


def _looks_like_onnx(head: bytes) -> bool:
    """A protobuf that begins with a small ir_version, then the producer, the domain or the graph (fields 2 to 8 of ModelProto)."""
    return len(head) > 3 and head[0] == 0x08 and 1 <= head[1] <= 30 and head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)


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

"""The fake's serialized engine: a header with its version and GPU, then the graph with its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import onnx

from tests.fakes import gpu as machine
from tests.fakes.trt.model import Model

MAGIC = b"fake TensorRT plan\n"
TIMINGS = b"fake TensorRT timings"


@dataclass(frozen=True)
class Plan:
    model: Model
    refittable: tuple[str, ...]
    profiles: tuple[dict[str, tuple[tuple[int, ...], ...]], ...]
    stripped: bool
    size: int
    capabilities: tuple[tuple[int, int], ...]


def write(
    model: Model, refittable: list[str], profiles: list[dict[str, Any]], stripped: bool, capabilities: list[Any] | None = None
) -> bytes:
    gpu = machine.current()
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    if stripped:
        for one in proto.graph.initializer:
            if one.name in refittable:
                one.raw_data = b"\xff" * _nbytes(one)
                for field in ("float_data", "int32_data", "double_data"):
                    one.ClearField(field)  # type: ignore[arg-type]
    header = {
        "version": gpu.tensorrt,
        "capabilities": [list(one) for one in capabilities or [gpu.capability]],
        "weights": model.weights,
        "groups": {name: sorted(group) for name, group in model.groups.items()},
        "refittable": refittable,
        "profiles": profiles,
        "stripped": stripped,
    }
    head, body = json.dumps(header).encode(), proto.SerializeToString(deterministic=True)
    content = len(head).to_bytes(8, "little") + head + body
    return MAGIC + hashlib.sha256(content).digest() + content


def read(data: bytes) -> Plan | str:
    """Returns the plan, or why it cannot be used: not a plan, damaged, of another version, for another GPU."""
    gpu = machine.current()
    if not data.startswith(MAGIC):
        return "the serialized engine has no magic tag"
    digest, content = data[len(MAGIC) :][:32], data[len(MAGIC) + 32 :]
    if hashlib.sha256(content).digest() != digest:
        return "the serialized engine is damaged"
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if header["version"] != gpu.tensorrt:
        return f"the engine is of version {header['version']}, this is {gpu.tensorrt}"
    if list(gpu.capability) not in header["capabilities"]:
        return "the engine was built for another compute capability"
    proto = onnx.ModelProto()
    proto.ParseFromString(content[8 + length :])
    groups = {name: frozenset(group) for name, group in header["groups"].items()}
    model = Model(proto, header["weights"], groups)
    profiles = tuple({name: tuple(map(tuple, shapes)) for name, shapes in one.items()} for one in header["profiles"])
    return Plan(
        model, tuple(header["refittable"]), profiles, header["stripped"], len(data), tuple(map(tuple, header["capabilities"]))
    )


def _nbytes(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count * (2 if tensor.data_type == onnx.TensorProto.FLOAT16 else 4)
